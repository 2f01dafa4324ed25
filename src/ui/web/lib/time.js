// Instants and spans: reading what people type, writing what they can compare.
import { setting } from './settings.js';

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000, y: 31_536_000_000 };

/** Prometheus' notation to ms (`1h30m`); null when it is none. Bare numbers are seconds. */
export function parseSpan(text) {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Number(trimmed) * 1000;
  const found = /^(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?$/.exec(trimmed);
  if (!found || trimmed === '') return null;
  return ['y', 'w', 'd', 'h', 'm', 's', 'ms'].reduce((sum, unit, i) => sum + Number(found[i + 1] ?? 0) * UNITS[unit], 0);
}

/** Milliseconds in Prometheus' notation. */
export function formatSpan(ms) {
  if (ms === 0) return '0s';
  let left = Math.round(ms);
  let text = '';
  for (const unit of ['y', 'w', 'd', 'h', 'm', 's', 'ms']) {
    const whole = ['y', 'w'].includes(unit) && left % UNITS[unit] !== 0;
    const count = whole ? 0 : Math.floor(left / UNITS[unit]);
    if (count) text += `${count}${unit}`;
    left -= count * UNITS[unit];
  }
  return text;
}

/** Seconds as one figure with a unit: `1.2ms`, `340µs`, `2.5s`, `3m 20s`. */
export function shortSeconds(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const size = Math.abs(seconds);
  if (size === 0) return '0s';
  if (size < 1e-3) return `${digits(seconds * 1e6)}µs`;
  if (size < 1) return `${digits(seconds * 1e3)}ms`;
  if (size < 60) return `${digits(seconds)}s`;
  return coarse(seconds * 1000);
}

const digits = (value) => Number(value.toPrecision(3)).toString();

/** Two units at most: `3m 20s`, `2h 5m`, `4d 3h`. */
export function coarse(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s}s`;
  const pick = (a, unitA, b, unitB) => (b ? `${a}${unitA} ${b}${unitB}` : `${a}${unitA}`);
  if (s < 3600) return pick(Math.floor(s / 60), 'm', s % 60, 's');
  if (s < 86_400) return pick(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'm');
  return pick(Math.floor(s / 86_400), 'd', Math.floor((s % 86_400) / 3600), 'h');
}

/** An instant the API gave as RFC 3339, in ms; null for Go's zero time and what is none. */
export function instant(text) {
  if (!text || text.startsWith('0001-')) return null;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}

export const utc = () => setting('clock') !== 'local';
const two = (n) => String(n).padStart(2, '0');

function parts(ms) {
  const d = new Date(ms);
  return utc()
    ? [d.getUTCFullYear(), d.getUTCMonth(), d.getUTCDate(), d.getUTCHours(), d.getUTCMinutes(), d.getUTCSeconds()]
    : [d.getFullYear(), d.getMonth(), d.getDate(), d.getHours(), d.getMinutes(), d.getSeconds()];
}

/** `2026-11-25 03:12:09`, in the clock that the reader chose. */
export function formatInstant(ms, { seconds = true, millis = false } = {}) {
  if (ms === null || !Number.isFinite(ms)) return '–';
  const [y, mo, d, h, mi, s] = parts(ms);
  const tail = seconds ? `:${two(s)}${millis && ms % 1000 ? `.${String(Math.abs(ms % 1000)).padStart(3, '0')}` : ''}` : '';
  return `${y}-${two(mo + 1)}-${two(d)} ${two(h)}:${two(mi)}${tail}`;
}

/** Reads `2026-11-25 03:12[:09]` (or with T) in the reader's clock; null when it is none. */
export function parseInstant(text) {
  const found = /^(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,3}))?)?)?(Z)?$/.exec(text.trim());
  if (!found) return null;
  const [y, mo, d, h, mi, s] = found.slice(1, 7).map((part) => Number(part ?? 0));
  const ms = Number((found[7] ?? '0').padEnd(3, '0'));
  return utc() || found[8] ? Date.UTC(y, mo - 1, d, h, mi, s, ms) : new Date(y, mo - 1, d, h, mi, s, ms).getTime();
}

/** How long ago, for a table cell. */
export function ago(ms, now = Date.now()) {
  if (ms === null) return 'never';
  const since = now - ms;
  return since < -1500 ? `in ${coarse(-since)}` : `${since < 1000 ? `${Math.max(0, since / 1000).toFixed(1)}s` : coarse(since)} ago`;
}
