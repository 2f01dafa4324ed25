// Small pieces that every page uses.
import { useEffect, useState } from 'preact/hooks';
import { ago, formatInstant, utc } from './time.js';

/** `name="value"` pairs, readable and copyable; `omit` leaves some out. */
export function Labels({ labels, omit = [], onPick }) {
  const shown = Object.entries(labels ?? {}).filter(([name]) => !omit.includes(name));
  if (!shown.length) return <span class="muted">none</span>;
  return (
    <span class="labels">
      {shown.map(([name, value]) => (
        <span class="label" key={name} onClick={onPick && (() => onPick(name, value))}>
          <span class="label-name">{name}</span>=<span class="label-value">"{value}"</span>
        </span>
      ))}
    </span>
  );
}

/** A series as PromQL writes it. */
export function seriesText(labels) {
  const { __name__: name = '', ...rest } = labels;
  const quote = (value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
  const plain = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
  const inner = Object.entries(rest).map(([key, value]) => `${/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(key) ? key : quote(key)}=${quote(value)}`);
  if (name && !plain.test(name)) inner.unshift(quote(name));
  const head = plain.test(name) ? name : '';
  return inner.length || !head ? `${head}{${inner.join(', ')}}` : head;
}

export function Series({ labels }) {
  const { __name__: name, ...rest } = labels;
  const entries = Object.entries(rest);
  return (
    <span class="series">
      {name && <span class="series-name">{name}</span>}
      {(entries.length > 0 || !name) && (
        <>
          {'{'}
          {entries.map(([key, value], i) => (
            <span key={key}>
              {i > 0 && ', '}
              <span class="label-name">{key}</span>=<span class="label-value">"{value}"</span>
            </span>
          ))}
          {'}'}
        </>
      )}
    </span>
  );
}

/** A word with a colour and a mark of its own, so that colour is never all there is. */
export function State({ kind, children }) {
  const mark = { ok: '●', warn: '▲', bad: '■', idle: '○' }[kind];
  return (
    <span class={`state state-${kind}`}>
      <span class="mark" aria-hidden="true">{mark}</span>
      {children}
    </span>
  );
}

/** One second hand for all ages of a page, however many there are. */
const ages = new Set();
setInterval(() => {
  if (document.hidden) return;
  const now = Date.now();
  for (const tell of ages) tell(now);
}, 1000);

function useNow() {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    ages.add(set);
    return () => ages.delete(set);
  }, []);
  return now;
}

export function Ago({ ms }) {
  const now = useNow();
  return <time title={ms === null ? '' : `${formatInstant(ms, { millis: true })}${utc() ? ' UTC' : ''}`}>{ago(ms, now)}</time>;
}

export function Banner({ kind = 'bad', title, children }) {
  return (
    <div class={`banner banner-${kind}`} role={kind === 'bad' ? 'alert' : 'status'}>
      {title && <strong>{title}</strong>} {children}
    </div>
  );
}

/** The page's data or why there is none: what was there stays below the error. */
export function Loaded({ polled, children }) {
  const { data, error, at } = polled;
  return (
    <>
      {error && (
        <Banner kind={error.starting ? 'info' : 'bad'}>
          {error.message} {error.starting && <><a href="cluster">The cluster page</a> shows how far it is. </>}{data !== undefined && at && <span class="muted">Below is what it said <Ago ms={at} />.</span>}
        </Banner>
      )}
      {data === undefined ? !error && <p class="muted waiting">Asking the peer…</p> : children(data)}
    </>
  );
}

/** A search field that `/` reaches. */
export function Search({ value, onChange, label = 'Filter', ...rest }) {
  return (
    <input class="search" type="search" data-search value={value} placeholder={label} aria-label={label} spellcheck={false}
      onInput={(event) => onChange(event.currentTarget.value)} {...rest} />
  );
}

/** One of a few, as buttons with counts. `options`: [value, text, count?]. */
export function Choice({ value, onChange, options, label }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([key, text, count]) => (
        <button key={key} type="button" aria-pressed={value === key} onClick={() => onChange(key)}>
          {text}
          {count !== undefined && <span class="count">{count}</span>}
        </button>
      ))}
    </div>
  );
}

/** Several of a few: toggles with counts; `value` is a comma-separated list, empty for all. */
export function Toggles({ value, onChange, options, label }) {
  const on = value ? value.split(',') : [];
  const toggle = (key) => onChange((on.includes(key) ? on.filter((one) => one !== key) : [...on, key]).join(','));
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([key, text, count, kind]) => (
        <button key={key} type="button" aria-pressed={on.includes(key)} onClick={() => toggle(key)}>
          {kind && <span class={`mark state-${kind}`} aria-hidden="true">{{ ok: '●', warn: '▲', bad: '■', idle: '○' }[kind]}</span>}
          {text}
          {count !== undefined && <span class="count">{count}</span>}
        </button>
      ))}
    </div>
  );
}

/** `text` may be a function, asked when it is wanted. */
export function Copy({ text: given, label = 'Copy' }) {
  const [done, set] = useState(false);
  const copy = async () => {
    const text = typeof given === 'function' ? given() : given;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without HTTPS there is no clipboard API; the old way still works.
      const area = Object.assign(document.createElement('textarea'), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
    }
    set(true);
    setTimeout(() => set(false), 1200);
  };
  return <button type="button" class="small" onClick={copy}>{done ? 'Copied' : label}</button>;
}

/** Figures with names, in a row. */
export function Figures({ items }) {
  return (
    <dl class="figures">
      {items.filter(Boolean).map(([name, value, kind, title]) => (
        <div key={name} class={kind ? `figure-${kind}` : ''} title={title}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** An address that others gave, if it is one of the web: anybody may post an alert. */
export const webAddress = (text) => (/^https?:\/\//i.test(text ?? '') ? text : undefined);

export const queryLink = (expr, tab = 'table') => `query?g0.expr=${encodeURIComponent(expr)}&g0.tab=${tab}`;

/** Every word must occur somewhere in the text. */
export function found(needle, ...haystack) {
  const words = needle.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const text = haystack.map((part) => (typeof part === 'string' ? part : labelText(part))).join('\n').toLowerCase();
  return words.every((word) => text.includes(word));
}

const labelText = (labels) => Object.entries(labels ?? {}).map(([name, value]) => `${name}="${value}" ${name}=${value}`).join('\n');

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (!Number.isFinite(n)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  let value = n;
  while (value >= 1024 && i < units.length - 1) {
    value /= 1024;
    i += 1;
  }
  return `${i ? value.toPrecision(3) : value} ${units[i]}`;
}
