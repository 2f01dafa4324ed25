// What discovery found, what relabelling made of it, and what it dropped.
import { useEffect, useState } from 'preact/hooks';
import { ask, usePolled } from '../lib/api.js';
import { count, found, Labels, Loaded, Search, State, Toggles } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { OPEN_MAX, Select } from './targets.jsx';

export function Discovery() {
  const polled = usePolled(async (signal) => (await ask('api/v1/targets', { signal })).data, { every: 15_000 });
  return (
    <>
      <h1>Service discovery</h1>
      <Loaded polled={polled}>{(data) => <Pools {...data} />}</Loaded>
    </>
  );
}

function Pools({ activeTargets, droppedTargets, droppedTargetCounts }) {
  const [kind, setKind] = useParam('kind');
  const [pool, setPool] = useParam('pool');
  const [search, setSearch] = useParam('search');
  const [settings, setSettings] = useParam('settings');
  const rows = [
    ...activeTargets.map((target) => ({ ...target, kind: 'active' })),
    ...(droppedTargets ?? []).map((target) => ({ ...target, kind: 'dropped' })),
  ];
  const wanted = kind ? kind.split(',') : [];
  const dropped = Object.values(droppedTargetCounts ?? {}).reduce((sum, n) => sum + n, 0);
  const all = [...new Set([...rows.map((row) => row.scrapePool), ...Object.keys(droppedTargetCounts ?? {})])].sort();
  const takes = (row) => (!wanted.length || wanted.includes(row.kind)) && found(search, row.discoveredLabels, row.labels ?? {});
  const shown = all.filter((name) => !pool || name === pool).map((name) => [name, rows.filter((row) => row.scrapePool === name && takes(row))]);
  const few = shown.reduce((sum, [, some]) => sum + some.length, 0) <= OPEN_MAX;
  return (
    <>
      <div class="bar">
        <Toggles label="Kind" value={kind} onChange={setKind} options={[['active', 'scraped', activeTargets.length, 'ok'], ['dropped', 'dropped', dropped, 'idle']]} />
        <Select label="Job" all="All jobs" value={pool} onChange={setPool} options={all.map((name) => [name, name])} />
        <Search value={search} onChange={setSearch} label="Label or value…" />
        <label class="check"><input type="checkbox" checked={settings === 'yes'} onChange={(event) => setSettings(event.currentTarget.checked ? 'yes' : '')} /> Scrape settings</label>
      </div>
      {!rows.length && <p class="muted">Discovery has found nothing.</p>}
      {shown.filter(([, some]) => some.length).map(([name, some]) => (
        <Pool key={name} name={name} rows={some} all={rows.filter((row) => row.scrapePool === name)} dropped={droppedTargetCounts?.[name] ?? 0}
          settings={settings === 'yes'} open={few || Boolean(pool)} />
      ))}
    </>
  );
}

function Pool({ name, rows, all, dropped, settings, open: first }) {
  const [open, setOpen] = useState(first);
  useEffect(() => setOpen(first), [first]);
  const scraped = all.filter(({ kind }) => kind === 'active').length;
  const remembered = all.length - scraped;
  return (
    <details class="group" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary class="group-head">
        <h2>{name}</h2>
        <span class="muted">
          {count(scraped, 'target')} scraped{dropped > 0 && `, ${dropped} dropped`}{dropped > remembered && `, of which ${remembered} are remembered`}
        </span>
      </summary>
      {open && <Table rows={rows} limit={100} columns={columns(settings)} />}
    </details>
  );
}

/** What every target of a job has alike from its scrape configuration. */
const SETTINGS = [
  '__scheme__', '__metrics_path__', '__scrape_interval__', '__scrape_timeout__', '__scrape_native_histograms__',
  '__always_scrape_classic_histograms__', '__convert_classic_histograms_to_nhcb__',
];

const columns = (settings) => [
  { name: 'Discovered', kind: 'wide', key: (row) => row.discoveredLabels.__address__ ?? '', cell: (row) => <Labels labels={row.discoveredLabels} omit={settings ? [] : SETTINGS} /> },
  { name: '', cell: (row) => (row.kind === 'active' ? <State kind="ok">scraped</State> : <State kind="idle">dropped</State>) },
  { name: 'Target labels', kind: 'wide', key: (row) => row.labels?.instance ?? '', cell: (row) => (row.labels ? <Labels labels={row.labels} /> : <span class="muted">by relabelling, or by a missing address</span>) },
];
