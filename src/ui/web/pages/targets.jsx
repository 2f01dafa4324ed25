// What is scraped, how it went, and which peer does it.
import { useEffect, useState } from 'preact/hooks';
import { ask, usePolled } from '../lib/api.js';
import { memberNames } from '../lib/mesh.js';
import { Ago, Banner, count, found, Labels, Loaded, Search, State, Toggles, webAddress } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { instant, shortSeconds } from '../lib/time.js';

/** With more targets than this only jobs with trouble are open at first. */
export const OPEN_MAX = 300;
/** Rows of a job that are drawn at once when there are many. */
const ROWS_MAX = 50;
const ORDER = ['down', 'unknown', 'up'];
const HEALTH = { up: 'ok', down: 'bad', unknown: 'idle' };

async function load(signal) {
  const [targets, pools, cluster] = await Promise.all([
    ask('api/v1/targets', { params: { state: 'active' }, signal }),
    ask('api/v1/scrape_pools', { signal }),
    // Names of peers are a comfort: without them the page shows identities.
    ask('api/v1/cluster', { signal }).catch(() => ({ data: { members: [] } })),
  ]);
  return { targets: targets.data.activeTargets, pools: pools.data.scrapePools, members: cluster.data.members ?? [] };
}

export function Targets() {
  const polled = usePolled(load, { every: 10_000 });
  return (
    <>
      <h1>Targets</h1>
      <Loaded polled={polled}>{(data) => <Pools {...data} />}</Loaded>
    </>
  );
}

function Pools({ targets, pools, members }) {
  const [health, setHealth] = useParam('health');
  const [pool, setPool] = useParam('pool');
  const [peer, setPeer] = useParam('peer');
  const [search, setSearch] = useParam('search');
  const names = memberNames(members);
  const scraper = (target) => names.get(target.peer) ?? target.peer?.slice(0, 8) ?? '';
  const wanted = health ? health.split(',') : [];
  const tally = (state) => targets.filter((target) => target.health === state).length;
  const takes = (target) => (!wanted.length || wanted.includes(target.health))
    && (!peer || target.peer === peer) && found(search, target.scrapeUrl, target.labels, target.lastError);
  const all = [...new Set([...pools, ...targets.map((target) => target.scrapePool)])].sort();
  const shown = all
    .filter((name) => !pool || name === pool)
    .map((name) => [name, targets.filter((target) => target.scrapePool === name)])
    .map(([name, of]) => [name, of, of.filter(takes)])
    .filter(([, of, some]) => some.length || (!of.length && !wanted.length && !search && !peer));
  const many = shown.reduce((sum, [, , some]) => sum + some.length, 0) > OPEN_MAX;
  const peers = [...new Set(targets.map((target) => target.peer).filter(Boolean))].sort((a, b) => (names.get(a) ?? a).localeCompare(names.get(b) ?? b));
  return (
    <>
      <div class="bar">
        <Toggles label="Health" value={health} onChange={setHealth} options={['down', 'unknown', 'up'].map((one) => [one, one, tally(one), HEALTH[one]])} />
        <Select label="Job" all="All jobs" value={pool} onChange={setPool} options={all.map((name) => [name, name])} />
        {peers.length > 1 && <Select label="Scraped by" all="All peers" value={peer} onChange={setPeer} options={peers.map((id) => [id, names.get(id) ?? id.slice(0, 8)])} />}
        <Search value={search} onChange={setSearch} label="Address, label, error…" />
      </div>
      {!all.length && <Banner kind="info">Nothing is scraped: the configuration has no <code>scrape_configs</code>.</Banner>}
      {all.length > 0 && !shown.length && <p class="muted">No target is like that.</p>}
      {shown.map(([name, of, some]) => (
        <Pool key={name} name={name} all={of} shown={some} scraper={scraper} many={many}
          open={!many || shown.length === 1 || some.some((target) => target.health === 'down')} />
      ))}
    </>
  );
}

const worstFirst = (targets) => [...targets].sort((a, b) => ORDER.indexOf(a.health) - ORDER.indexOf(b.health));

export function Select({ label, all, value, onChange, options }) {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      <option value="">{all}</option>
      {options.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
    </select>
  );
}

function Pool({ name, all, shown, scraper, many, open: first }) {
  const [open, setOpen] = useState(first);
  useEffect(() => setOpen(first), [first]);
  const up = all.filter((target) => target.health === 'up').length;
  const kind = !all.length ? 'idle' : up === all.length ? 'ok' : all.some((target) => target.health === 'down') ? 'bad' : 'idle';
  const columns = [
    { name: 'Endpoint', key: (t) => t.scrapeUrl, cell: (t) => <a class="mono" href={webAddress(t.globalUrl)} rel="noreferrer">{t.scrapeUrl}</a> },
    { name: 'State', key: (t) => t.health, cell: (t) => <State kind={HEALTH[t.health] ?? 'idle'}>{t.health}</State> },
    { name: 'Labels', kind: 'wide', key: (t) => t.labels.instance ?? '', cell: (t) => <Labels labels={t.labels} omit={['job']} /> },
    { name: 'Scraped by', key: scraper, cell: (t) => <span title={t.peer}>{scraper(t) || '–'}</span> },
    { name: 'Last scrape', key: (t) => instant(t.lastScrape) ?? 0, cell: (t) => <Ago ms={instant(t.lastScrape)} /> },
    { name: 'Took', kind: 'number', key: (t) => t.lastScrapeDuration, cell: (t) => (t.lastScrapeDuration ? shortSeconds(t.lastScrapeDuration) : '–') },
    { name: 'Every', key: (t) => t.scrapeInterval, cell: (t) => <span title={`Timeout ${t.scrapeTimeout}`}>{t.scrapeInterval}</span> },
  ];
  return (
    <details class="group" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary class="group-head">
        <h2>{name}</h2>
        <State kind={kind}>{all.length ? `${up} of ${all.length} up` : 'no targets'}</State>
        {shown.length < all.length && <span class="muted">{count(shown.length, 'target')} shown</span>}
      </summary>
      {open && shown.length > 0 && (
        <Table columns={columns} rows={worstFirst(shown)} limit={many ? ROWS_MAX : OPEN_MAX} param="sort" rowKey={(t) => `${t.scrapeUrl} ${JSON.stringify(t.labels)}`} rowClass={(t) => t.health === 'down' && 'row-bad'}
          detail={(t) => t.lastError && <span class="error-text">{t.lastError}</span>} />
      )}
    </details>
  );
}
