// The answer of an instant query as a table.
import { useState } from 'preact/hooks';
import { Copy, found, Search, Series, seriesText } from '../lib/parts.jsx';
import { useSetting } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { formatInstant } from '../lib/time.js';

export function Result({ data }) {
  const { resultType, result } = data;
  if (resultType === 'scalar' || resultType === 'string') {
    return <p class="single"><span class="mono">{resultType === 'string' ? JSON.stringify(result[1]) : result[1]}</span> <span class="muted">{resultType}</span></p>;
  }
  if (!result.length) return <p class="muted">The answer is empty: no series matches, or none has a sample at that time.</p>;
  return <Rows rows={result} />;
}

const FEW = 8;

/** A row for a message to a colleague. */
const asText = ({ metric, value, histogram }) => `${seriesText(metric)} ${value ? value[1] : histogram ? `count ${histogram[1].count} sum ${histogram[1].sum}` : ''}`.trim();

function Rows({ rows }) {
  const [search, setSearch] = useState('');
  const [columns, setColumns] = useSetting('columns', 'no');
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.metric)))].sort((a, b) => (a === '__name__' ? -1 : b === '__name__' ? 1 : a < b ? -1 : 1));
  const shown = rows.filter((row) => found(search, row.metric));
  const series = { name: 'Series', kind: 'wide', key: (row) => seriesText(row.metric), cell: (row) => <Series labels={row.metric} /> };
  const apart = names.map((name) => ({ name: name === '__name__' ? 'metric' : name, key: (row) => row.metric[name], cell: (row) => <span class="mono">{row.metric[name] ?? ''}</span> }));
  const value = { name: 'Value', kind: 'number', key: (row) => Number(row.value?.[1] ?? row.histogram?.[1]?.count), cell: (row) => <Value row={row} /> };
  return (
    <>
      {(rows.length > FEW || names.length > 1) && (
        <div class="bar">
          {rows.length > FEW && <Search value={search} onChange={setSearch} label="Filter series" data-search={undefined} />}
          <label class="check"><input type="checkbox" checked={columns === 'yes'} onChange={(event) => setColumns(event.currentTarget.checked ? 'yes' : 'no')} /> Labels as columns</label>
          <Copy text={() => shown.map(asText).join('\n')} />
        </div>
      )}
      <Table rows={shown} columns={[...(columns === 'yes' ? apart : [series]), value]} rowKey={(row) => seriesText(row.metric)} empty="No series is like that." />
    </>
  );
}

function Value({ row }) {
  if (row.histogram) return <Histogram value={row.histogram[1]} />;
  if (row.value) return <span class="mono">{row.value[1]}</span>;
  const points = [
    ...(row.values ?? []).map(([at, value]) => [at, value]),
    ...(row.histograms ?? []).map(([at, { count, sum }]) => [at, `count ${count}, sum ${sum}`]),
  ].sort(([a], [b]) => a - b);
  return <Points points={points} />;
}

const MOST = 100;

function Points({ points }) {
  const [all, set] = useState(false);
  const shown = all ? points : points.slice(-MOST);
  return (
    <div class="points mono">
      {shown.length < points.length && <button type="button" class="small" onClick={() => set(true)}>{points.length - MOST} earlier</button>}
      {shown.map(([at, value]) => <div key={at}>{value} <span class="muted">@ {formatInstant(at * 1000, { millis: true })}</span></div>)}
    </div>
  );
}

/** Bars by count, each with its bounds; as wide as the widest bucket says. */
function Histogram({ value }) {
  const buckets = value.buckets ?? [];
  const most = Math.max(...buckets.map(([, , , n]) => Number(n)), 0);
  const left = [1, 3];
  const right = [0, 3];
  return (
    <div class="histogram mono">
      <div title={`count ${value.count}, sum ${value.sum}`}>count {short(value.count)}, sum {short(value.sum)}</div>
      {buckets.map(([kind, from, to, n]) => (
        <div class="bucket" key={`${from} ${to}`}>
          <span>{left.includes(kind) ? '[' : '('}{short(from)}, {short(to)}{right.includes(kind) ? ']' : ')'}</span>
          <span class="bucket-bar"><span style={{ width: `${most ? (100 * Number(n)) / most : 0}%` }} /></span>
          <span title={n}>{short(n)}</span>
        </div>
      ))}
    </div>
  );
}

const short = (text) => (Number.isFinite(Number(text)) ? String(Number(Number(text).toPrecision(6))) : text);
