// The expression taken apart: what each part of it gives at the instant of the table. Where a join loses its series, or
// why an alert does not fire, is seen at the first row that is empty.
import { useEffect, useState } from 'preact/hooks';
import { ask } from '../lib/api.js';
import { Banner, count } from '../lib/parts.jsx';
import { shortSeconds } from '../lib/time.js';

/** A part can be as costly as the whole: so many are asked, one after the other. */
const ASKED_MAX = 40;
const LABELS_SHOWN = 6;

/** What is asked for a part: of a range only which series have samples in it. */
const question = ({ kind, text }) => (kind === 'range' || kind === 'subquery' ? `present_over_time(${text})` : text);

async function answer(part, at, signal) {
  const began = performance.now();
  const { data, warnings } = await ask('api/v1/query', { params: { query: question(part), time: at }, signal, post: true });
  return { ...summary(data), warnings, took: (performance.now() - began) / 1000 };
}

/** How many series, and how many values each label has among them. */
function summary({ resultType, result }) {
  if (resultType === 'scalar' || resultType === 'string') return { text: result[1] };
  const values = new Map();
  for (const { metric } of result) {
    for (const [name, value] of Object.entries(metric)) values.set(name, (values.get(name) ?? new Set()).add(value));
  }
  const labels = [...values].map(([name, set]) => [name, set.size]).sort(([a, n], [b, m]) => n - m || (a < b ? -1 : 1));
  const only = result.length === 1 ? (result[0].value?.[1] ?? 'a histogram') : null;
  return { series: result.length, labels, only };
}

export function Explain({ expr, endMs, again }) {
  const [parts, setParts] = useState(null);
  const [answers, setAnswers] = useState([]);
  useEffect(() => {
    const mine = new AbortController();
    setParts(null);
    setAnswers([]);
    const all = async () => {
      const { takeApart } = await import('./editor.js');
      const found = takeApart(expr);
      if (mine.signal.aborted) return;
      setParts(found);
      const at = String((endMs ?? Date.now()) / 1000);
      for (const [i, part] of found.slice(0, ASKED_MAX).entries()) {
        const one = await answer(part, at, mine.signal).catch((error) => ({ error }));
        if (mine.signal.aborted) return;
        setAnswers((old) => Object.assign([...old], { [i]: one }));
      }
    };
    all();
    return () => mine.abort();
  }, [expr, endMs, again]);
  if (!parts) return <p class="muted">Taking it apart…</p>;
  if (!parts.length) return <p class="muted">There is nothing to take apart.</p>;
  return (
    <>
      {parts.length > ASKED_MAX && <Banner kind="info">{parts.length} parts: the first {ASKED_MAX} are asked.</Banner>}
      <div class="table-box">
        <table>
          <thead><tr><th class="wide">Part</th><th>Kind</th><th>Gives</th><th class="number">Took</th></tr></thead>
          <tbody>
            {parts.map((part, i) => <Part key={`${i} ${part.text}`} part={part} found={answers[i]} asked={i < ASKED_MAX} />)}
          </tbody>
        </table>
      </div>
    </>
  );
}

function Part({ part, found, asked }) {
  const empty = found?.series === 0;
  return (
    <tr class={found?.error ? 'row-bad' : empty ? 'row-warn' : ''}>
      <td class="wide"><code class="part" style={{ paddingLeft: `${part.depth * 20}px` }}>{part.text}</code></td>
      <td class="muted">{part.kind}</td>
      <td><Gives found={found} asked={asked} /></td>
      <td class="number">{found && !found.error ? shortSeconds(found.took) : ''}</td>
    </tr>
  );
}

function Gives({ found, asked }) {
  if (!found) return <span class="muted">{asked ? '…' : 'not asked'}</span>;
  if (found.error) return <span class="error-text">{found.error.message}</span>;
  if (found.text !== undefined) return <code>{found.text}</code>;
  const { series, labels, only, warnings } = found;
  const shown = labels.slice(0, LABELS_SHOWN).map(([name, n]) => `${name === '__name__' ? 'name' : name} ${n}`).join(', ');
  return (
    <>
      {series === 0 ? <strong class="over">nothing</strong> : count(series, 'series', 'series')}
      {only !== null && <> with <code>{only}</code></>}
      {shown && <span class="sub" title="How many values each label has">{shown}{labels.length > LABELS_SHOWN && ', …'}</span>}
      {warnings.map((text) => <span class="sub" key={text}>{text}</span>)}
    </>
  );
}
