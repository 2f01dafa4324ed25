// When: the instant of a table, the range, end and step of a graph.
import { useEffect, useState } from 'preact/hooks';
import { Choice } from '../lib/parts.jsx';
import { formatInstant, formatSpan, parseInstant, parseSpan } from '../lib/time.js';
import { clockName, DENSITIES, effectiveStep, POINTS_MAX } from './params.js';

const RANGES = ['1m', '5m', '15m', '30m', '1h', '2h', '6h', '12h', '1d', '2d', '1w', '2w', '4w', '8w', '52w'].map(parseSpan);

/** A text field that takes a value only when it can be read. */
function Field({ value, read, onTake, label, width, placeholder = '' }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const bad = text !== '' && read(text) === null;
  const take = () => {
    if (text === value) return;
    if (text === '') onTake(null);
    else if (!bad) onTake(read(text));
  };
  return (
    <input type="text" class={bad ? 'bad' : ''} aria-label={label} title={label} aria-invalid={bad} style={{ width }} value={text} placeholder={placeholder}
      onInput={(event) => setText(event.currentTarget.value)} onBlur={take} onKeyDown={(event) => event.key === 'Enter' && take()} />
  );
}

const Instant = ({ panel, onChange, label }) => (
  <Field label={`${label}, ${clockName()}`} width="12.5em" placeholder="now" value={panel.endMs === null ? '' : formatInstant(panel.endMs)}
    read={parseInstant} onTake={(ms) => onChange({ endMs: ms })} />
);

function End({ panel, onChange, label, stepBy }) {
  const shift = (ms) => {
    const next = (panel.endMs ?? Date.now()) + ms;
    onChange({ endMs: next >= Date.now() ? null : Math.round(next / 1000) * 1000 });
  };
  return (
    <span class="joined">
      <button type="button" title={`Earlier by ${formatSpan(stepBy)}`} aria-label="Earlier" onClick={() => shift(-stepBy)}>◂</button>
      <Instant panel={panel} onChange={onChange} label={label} />
      <button type="button" title={`Later by ${formatSpan(stepBy)}`} aria-label="Later" disabled={panel.endMs === null} onClick={() => shift(stepBy)}>▸</button>
      {panel.endMs !== null && <button type="button" title="Back to the present" onClick={() => onChange({ endMs: null })}>now</button>}
    </span>
  );
}

export const Moment = ({ panel, onChange }) => <End panel={panel} onChange={onChange} label="Evaluated at" stepBy={60_000} />;

export function Controls({ panel, onChange }) {
  const { rangeMs, stepMs, density, mode } = panel;
  const shorter = RANGES.findLast((one) => one < rangeMs);
  const longer = RANGES.find((one) => one > rangeMs);
  const step = effectiveStep(panel);
  return (
    <>
      <span class="joined">
        <button type="button" title="A shorter range" aria-label="A shorter range" disabled={!shorter} onClick={() => onChange({ rangeMs: shorter })}>−</button>
        <Field label="Range" width="5em" value={formatSpan(rangeMs)} read={(text) => parseSpan(text) || null} onTake={(ms) => onChange({ rangeMs: ms ?? 3_600_000 })} />
        <button type="button" title="A longer range" aria-label="A longer range" disabled={!longer} onClick={() => onChange({ rangeMs: longer })}>+</button>
      </span>
      <End panel={panel} onChange={onChange} label="End" stepBy={rangeMs / 2} />
      <span class="joined">
        <select aria-label="Resolution" title="Resolution" value={stepMs === null ? density : 'fixed'}
          onChange={({ currentTarget: { value } }) => onChange(value === 'fixed' ? { stepMs: step } : { stepMs: null, density: value })}>
          {Object.keys(DENSITIES).map((one) => <option key={one} value={one}>{one} res.</option>)}
          <option value="fixed">fixed step</option>
        </select>
        {stepMs === null
          ? <span class="note" title="The step that follows">{formatSpan(step)}</span>
          : <Field label="Step" width="5em" value={formatSpan(stepMs)} read={(text) => parseSpan(text) || null} onTake={(ms) => onChange({ stepMs: ms })} />}
      </span>
      {rangeMs / step > POINTS_MAX && <span class="error-text">More than {POINTS_MAX.toLocaleString('en')} points a series: a longer step is needed.</span>}
      <Choice label="Drawing" value={mode} onChange={(next) => onChange({ mode: next })} options={[['lines', 'Lines'], ['stacked', 'Stacked']]} />
      <label class="check"><input type="checkbox" checked={panel.exemplars} onChange={(event) => onChange({ exemplars: event.currentTarget.checked })} /> Exemplars</label>
    </>
  );
}
