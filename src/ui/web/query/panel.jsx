// One expression: what to ask, when, and what came back.
import { useEffect, useRef, useState } from 'preact/hooks';
import { ask } from '../lib/api.js';
import { Choice } from '../lib/parts.jsx';
import { Controls, Moment } from './controls.jsx';
import { Explain } from './explain.jsx';
import { Expression } from './expression.jsx';
import { Graph } from './graph.jsx';
import { History } from './history.jsx';
import { Metrics } from './metrics.jsx';
import { remember } from './history.js';
import { effectiveStep } from './params.js';
import { Failure, Remarks, Stats } from './remarks.jsx';
import { Result } from './result.jsx';

/** Asks what the panel wants to know; gives the answer with the question it belongs to. */
async function run(panel, signal) {
  const began = performance.now();
  const end = panel.endMs ?? Date.now();
  if (panel.tab === 'table') {
    const params = { query: panel.expr, stats: 'all', time: String(end / 1000) };
    const answer = await ask('api/v1/query', { params, signal, post: true });
    return { ...answer, tab: 'table', took: performance.now() - began };
  }
  const step = effectiveStep(panel);
  const start = end - panel.rangeMs;
  const params = { query: panel.expr, start: String(start / 1000), end: String(end / 1000), step: String(step / 1000), stats: 'all' };
  const exemplars = panel.exemplars
    ? ask('api/v1/query_exemplars', { params: { query: panel.expr, start: params.start, end: params.end }, signal, post: true })
    : null;
  const answer = await ask('api/v1/query_range', { params, signal, post: true });
  const found = exemplars ? await exemplars.then(({ data }) => data, (error) => ({ error })) : [];
  return { ...answer, exemplars: found, tab: 'graph', start, end, step, took: performance.now() - began };
}

export function Panel({ panel, tick, first, onChange, onRemove }) {
  const [text, setText] = useState(panel.expr);
  const [state, set] = useState({ answer: null, error: null, busy: false });
  const [again, setAgain] = useState(0);
  const aborter = useRef(null);
  const quiet = useRef(false);
  useEffect(() => setText(panel.expr), [panel.expr]);
  useEffect(() => {
    quiet.current = tick > 0 && panel.endMs === null;
    if (tick > 0 && panel.endMs === null) setAgain((n) => n + 1);
  }, [tick]);
  const { expr, tab, rangeMs, endMs, density, stepMs, exemplars } = panel;
  const question = JSON.stringify([expr, tab, endMs, ...(tab === 'graph' ? [rangeMs, density, stepMs, exemplars] : []), again]);
  useEffect(() => {
    if (!expr.trim() || tab === 'explain') return set({ answer: null, error: null, busy: false });
    const mine = new AbortController();
    aborter.current = mine;
    set((old) => ({ ...old, busy: !quiet.current }));
    quiet.current = false;
    run(panel, mine.signal).then(
      (answer) => !mine.signal.aborted && set({ answer: { ...answer, expr }, error: null, busy: false }),
      (error) => {
        if (error.name !== 'AbortError') set({ answer: null, error, busy: false });
        else if (aborter.current === mine) set((old) => ({ ...old, busy: false }));
      },
    );
    return () => mine.abort();
  }, [question]);
  const execute = (query = text) => {
    remember(query);
    if (query === expr) setAgain((n) => n + 1);
    else onChange({ expr: query });
  };
  const layOut = () => ask('api/v1/format_query', { params: { query: text } }).then(({ data }) => setText(data), (error) => set({ answer: null, error: Object.assign(error, { expr: text }), busy: false }));
  const { answer, error, busy } = state;
  const fresh = answer && answer.tab === tab;
  return (
    <section class="panel" aria-busy={busy}>
      <div class="ask">
        <Expression value={text} onChange={setText} onRun={execute} focus={first && !panel.expr} />
        <div class="ask-ends">
          <Metrics onPick={(name) => (text.trim() ? setText(`${text}${name}`) : execute(name))} />
          <button type="button" class="quiet" title="Lay the expression out" disabled={!text.trim()} onClick={layOut}>Format</button>
          <History onPick={(query) => { setText(query); execute(query); }} />
          {busy
            ? <button type="button" class="primary" onClick={() => aborter.current?.abort()}>Cancel</button>
            : <button type="button" class="primary" onClick={() => execute()}>Run</button>}
          {onRemove && <button type="button" class="quiet" title="Remove this panel" aria-label="Remove this panel" onClick={onRemove}>✕</button>}
        </div>
      </div>
      <div class="bar">
        <Choice label="View" value={tab} onChange={(next) => onChange({ tab: next })} options={[['table', 'Table'], ['graph', 'Graph'], ['explain', 'Explain']]} />
        {tab !== 'graph' ? <Moment panel={panel} onChange={onChange} /> : <Controls panel={panel} onChange={onChange} />}
        {fresh && <Stats answer={answer} />}
      </div>
      {error && <Failure error={error} expr={error.expr ?? expr} />}
      {fresh && <Remarks answer={answer} />}
      {!expr.trim() && !error && <p class="muted">Write an expression and press Enter. <kbd>Ctrl</kbd> <kbd>Space</kbd> shows what could stand here.</p>}
      {fresh && tab === 'table' && <Result data={answer.data} />}
      {tab === 'explain' && expr.trim() && <Explain expr={expr} endMs={endMs} again={again} />}
      {fresh && tab === 'graph' && <Graph answer={answer} mode={panel.mode} onZoom={(from, to) => onChange({ endMs: to, rangeMs: to - from })} />}
    </section>
  );
}
