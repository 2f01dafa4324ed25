// The address of the query page, in the parameters that Prometheus' pages use: old links and `generatorURL`s keep working.
import { formatSpan, parseInstant, parseSpan, utc } from '../lib/time.js';

/** Points that a resolution asks for over the whole range, as in Prometheus. */
export const DENSITIES = { low: 100, medium: 250, high: 750 };
/** Prometheus answers no more points a series than this. */
export const POINTS_MAX = 11_000;

export const emptyPanel = () => ({
  id: nextId(), expr: '', tab: 'table', rangeMs: 3_600_000, endMs: null, density: 'medium', stepMs: null, mode: 'lines', exemplars: false,
});

let ids = 0;
const nextId = () => (ids += 1);

const parseUtc = (text) => parseInstant(text.endsWith('Z') ? text : `${text}Z`);

function readPanel(get) {
  const panel = emptyPanel();
  panel.expr = get('expr') ?? '';
  const tab = get('tab');
  panel.tab = tab === 'graph' || tab === '0' ? 'graph' : tab === 'explain' ? 'explain' : 'table';
  panel.rangeMs = parseSpan(get('range_input') ?? '') || panel.rangeMs;
  const end = get('end_input') ?? get('moment_input') ?? '';
  panel.endMs = /^\d+(\.\d+)?$/.test(end) ? Number(end) * 1000 : end ? parseUtc(end) : null;
  const kind = get('res_type');
  const step = Number(get('res_step') ?? get('step_input'));
  if ((kind === 'fixed' || kind === 'custom' || (!kind && get('step_input'))) && step > 0) panel.stepMs = step * 1000;
  if (get('res_density') in DENSITIES) panel.density = get('res_density');
  panel.mode = get('display_mode') === 'stacked' || get('stacked') === '1' ? 'stacked' : 'lines';
  panel.exemplars = get('show_exemplars') === '1';
  return panel;
}

/** The panels of an address; one empty panel when it names none. */
export function readPanels(search = location.search) {
  const params = new URLSearchParams(search);
  const panels = [];
  for (let i = 0; i < 50; i += 1) {
    if (![...params.keys()].some((key) => key.startsWith(`g${i}.`))) break;
    panels.push(readPanel((name) => params.get(`g${i}.${name}`)));
  }
  return panels.length ? panels : [emptyPanel()];
}

/** The address of some panels. Instants are in UTC, whatever the reader's clock. */
export function writePanels(panels) {
  const params = new URLSearchParams();
  panels.forEach((panel, i) => {
    const set = (name, value) => params.set(`g${i}.${name}`, value);
    set('expr', panel.expr);
    set('tab', panel.tab);
    set('range_input', formatSpan(panel.rangeMs));
    if (panel.endMs !== null) {
      const text = new Date(panel.endMs).toISOString().slice(0, 19).replace('T', ' ');
      set('end_input', text);
      set('moment_input', text);
    }
    if (panel.stepMs !== null) {
      set('res_type', 'custom');
      set('res_step', String(panel.stepMs / 1000));
    } else {
      set('res_type', 'auto');
      set('res_density', panel.density);
    }
    set('display_mode', panel.mode);
    if (panel.exemplars) set('show_exemplars', '1');
  });
  return `?${params}`;
}

/** The step of a panel's range query, in ms; never so small that the answer is refused. */
export function effectiveStep({ rangeMs, stepMs, density }) {
  if (stepMs !== null) return stepMs;
  return Math.max(Math.floor(rangeMs / DENSITIES[density] / 1000), 1) * 1000;
}

export const clockName = () => (utc() ? 'UTC' : Intl.DateTimeFormat().resolvedOptions().timeZone);
