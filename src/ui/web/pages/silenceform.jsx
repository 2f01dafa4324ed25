// A silence to be: which alerts, until when, who and why; with the alerts that it would silence now.
import { useEffect, useState } from 'preact/hooks';
import { askAlertmanager, usePolled, useSettled } from '../lib/api.js';
import { Banner, count, Labels } from '../lib/parts.jsx';
import { formatMatcher, operatorOf, parseMatchers } from '../lib/matchers.js';
import { keep, setting } from '../lib/settings.js';
import { formatInstant, formatSpan, instant, parseInstant, parseSpan, utc } from '../lib/time.js';
import { goTo } from './alertmanager.jsx';

const SPANS = ['30m', '2h', '8h', '1d', '3d', '1w'];
const OPERATORS = { '=': [true, false], '!=': [false, false], '=~': [true, true], '!~': [false, true] };

const blank = { name: '', value: '', isRegex: false, isEqual: true };

export function SilenceForm({ id, filter }) {
  const [form, setForm] = useState(null);
  const [failure, setFailure] = useState(null);
  useEffect(() => {
    if (!id) {
      const matchers = parseMatchers(filter) ?? [];
      return setForm({ matchers: matchers.length ? matchers : [blank], span: '2h', end: '', start: '', by: setting('author') ?? '', comment: '' });
    }
    askAlertmanager(`silence/${encodeURIComponent(id)}`).then(
      (silence) => setForm({
        id: silence.status.state === 'expired' ? undefined : silence.id,
        matchers: silence.matchers, by: silence.createdBy, comment: silence.comment,
        ...(silence.status.state === 'expired' ? { span: '2h', start: '', end: '' } : { span: '', start: formatInstant(instant(silence.startsAt)), end: formatInstant(instant(silence.endsAt)) }),
      }),
      setFailure,
    );
  }, []);
  if (failure && !form) return <Banner kind="bad">{failure.message}</Banner>;
  if (!form) return null;
  return <Form form={form} onChange={(part) => setForm({ ...form, ...part })} failure={failure} onFailure={setFailure} />;
}

/** The form's instants, or why there are none. */
function times({ start, span, end }) {
  const startsAt = start ? parseInstant(start) : Date.now();
  if (startsAt === null) return { why: 'The beginning cannot be read: write it as 2026-11-25 03:12.' };
  const endsAt = span ? startsAt + (parseSpan(span) ?? NaN) : parseInstant(end);
  if (endsAt === null || Number.isNaN(endsAt)) return { why: span ? 'The duration cannot be read: write it as 2h or 1d12h.' : 'The end cannot be read: write it as 2026-11-25 03:12.' };
  if (endsAt <= Date.now()) return { why: 'The end lies in the past.' };
  if (endsAt <= startsAt) return { why: 'The end lies before the beginning.' };
  return { startsAt, endsAt };
}

function problem({ matchers, by, comment, ...when }) {
  if (matchers.some(({ name }) => !name)) return 'A matcher has no label name.';
  if (matchers.every(({ value, isEqual, isRegex }) => value === '' && isEqual && !isRegex)) return 'At least one matcher must not match the empty value: else every alert is silenced.';
  if (times(when).why) return times(when).why;
  if (!by.trim()) return 'Say who you are.';
  if (!comment.trim()) return 'Say why: whoever looks next will ask.';
  return null;
}

function Form({ form, onChange, failure, onFailure }) {
  const [tried, setTried] = useState(false);
  const [busy, setBusy] = useState(false);
  const { id, matchers, start, span, end, by, comment } = form;
  const wrong = problem(form);
  const { startsAt, endsAt } = times(form);
  const setMatcher = (i, part) => onChange({ matchers: matchers.map((matcher, at) => (at === i ? { ...matcher, ...part } : matcher)) });
  const save = async (event) => {
    event.preventDefault();
    setTried(true);
    if (wrong || busy) return;
    setBusy(true);
    keep('author', by);
    try {
      const body = { id, matchers, startsAt: new Date(startsAt).toISOString(), endsAt: new Date(endsAt).toISOString(), createdBy: by, comment };
      const { silenceID } = await askAlertmanager('silences', { method: 'POST', body });
      goTo(`silences/${silenceID}`);
    } catch (error) {
      onFailure(error);
      setBusy(false);
    }
  };
  return (
    <form class="form" onSubmit={save}>
      <fieldset>
        <legend>Alerts that match all of</legend>
        {matchers.map((matcher, i) => (
          <div class="matcher" key={i}>
            <input type="text" class="mono" aria-label="Label" placeholder="label" spellcheck={false} value={matcher.name} onInput={(event) => setMatcher(i, { name: event.currentTarget.value.trim() })} />
            <select aria-label="Operator" value={operatorOf(matcher)} onChange={(event) => { const [isEqual, isRegex] = OPERATORS[event.currentTarget.value]; setMatcher(i, { isEqual, isRegex }); }}>
              {Object.keys(OPERATORS).map((operator) => <option key={operator} value={operator}>{operator}</option>)}
            </select>
            <input type="text" class="mono" aria-label="Value" placeholder="value" spellcheck={false} value={matcher.value} onInput={(event) => setMatcher(i, { value: event.currentTarget.value })} />
            <button type="button" class="quiet" aria-label="Remove this matcher" disabled={matchers.length === 1} onClick={() => onChange({ matchers: matchers.filter((_, at) => at !== i) })}>✕</button>
          </div>
        ))}
        <button type="button" class="small" onClick={() => onChange({ matchers: [...matchers, blank] })}>Add a matcher</button>
      </fieldset>
      <fieldset>
        <legend>For how long</legend>
        <div class="bar">
          <div class="choice" role="group" aria-label="Duration">
            {SPANS.map((one) => <button key={one} type="button" aria-pressed={span === one} onClick={() => onChange({ span: one })}>{one}</button>)}
          </div>
          <label>or <input type="text" class="narrow" aria-label="Duration" value={span} placeholder="2h30m" onInput={(event) => onChange({ span: event.currentTarget.value })} /></label>
          <label>or until <input type="text" aria-label="End" value={span && endsAt ? formatInstant(endsAt) : end} onInput={(event) => onChange({ end: event.currentTarget.value, span: '' })} /></label>
          <label>from <input type="text" aria-label="Beginning" value={start} placeholder="now" onInput={(event) => onChange({ start: event.currentTarget.value })} /></label>
          <span class="muted">{utc() ? 'UTC' : 'local time'}{startsAt && endsAt ? `, ${formatSpan(Math.round((endsAt - startsAt) / 1000) * 1000)}` : ''}</span>
        </div>
      </fieldset>
      <fieldset>
        <legend>Who and why</legend>
        <div class="bar">
          <input type="text" aria-label="Author" placeholder="you" value={by} onInput={(event) => onChange({ by: event.currentTarget.value })} />
          <input type="text" class="grow" aria-label="Comment" placeholder="why" value={comment} onInput={(event) => onChange({ comment: event.currentTarget.value })} />
        </div>
      </fieldset>
      {tried && wrong && <Banner kind="warn">{wrong}</Banner>}
      {failure && <Banner kind="bad" title="Not saved:">{failure.message}</Banner>}
      <div class="bar">
        <button type="submit" class="primary" disabled={busy}>{id ? 'Change the silence' : 'Create the silence'}</button>
        <a href="#/silences">Leave it</a>
      </div>
      <Affected matchers={matchers} />
    </form>
  );
}

function Affected({ matchers }) {
  const complete = matchers.every(({ name }) => name);
  const search = useSettled(complete ? new URLSearchParams(matchers.map((matcher) => ['filter', formatMatcher(matcher)])).toString() : '');
  const polled = usePolled((signal) => (search ? askAlertmanager(`alerts?${search}`, { signal }) : Promise.resolve(null)), { every: 15_000, deps: [search] });
  if (polled.error) return <Banner kind="warn" title="Which alerts match is not known:">{polled.error.message}</Banner>;
  if (!polled.data) return null;
  return (
    <section>
      <h2>{polled.data.length ? `${count(polled.data.length, 'alert')} would be silenced now` : 'No alert is like that now'}</h2>
      <ul class="plain">{polled.data.slice(0, 50).map((alert) => <li key={alert.fingerprint}><Labels labels={alert.labels} /></li>)}</ul>
      {polled.data.length > 50 && <p class="muted">and {polled.data.length - 50} more</p>}
    </section>
  );
}
