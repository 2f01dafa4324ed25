// What fills the head of this peer.
import { ask, usePolled } from '../lib/api.js';
import { bytes, Figures, Loaded, queryLink } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { coarse, formatInstant } from '../lib/time.js';
import { Select } from './targets.jsx';

const LISTS = [
  ['seriesCountByMetricName', 'Series by metric name', 'Metric', (name) => queryLink(`count({__name__=${JSON.stringify(name)}})`)],
  ['seriesCountByLabelValuePair', 'Series by label and value', 'Pair', null],
  ['labelValueCountByLabelName', 'Values by label name', 'Label', null],
  ['memoryInBytesByLabelName', 'Memory by label name', 'Label', null, bytes],
];

export function Tsdb() {
  const [limit, setLimit] = useParam('limit', '10');
  const polled = usePolled(async (signal) => (await ask('api/v1/status/tsdb', { params: { limit }, signal })).data, { every: 60_000, deps: [limit] });
  return (
    <>
      <h1>Storage</h1>
      <div class="bar">
        <span class="muted">The head of this peer: what it holds of the last hours, copies for others included.</span>
        <Select label="Rows" all="10 of each" value={limit === '10' ? '' : limit} onChange={(value) => setLimit(value || '10')} options={['25', '100', '1000'].map((n) => [n, `${n} of each`])} />
      </div>
      <Loaded polled={polled}>{(data) => <Shown data={data} />}</Loaded>
    </>
  );
}

function Shown({ data }) {
  const { numSeries, numLabelPairs, chunkCount, minTime, maxTime } = data.headStats;
  const some = maxTime >= minTime;
  return (
    <>
      <Figures items={[
        ['Series', numSeries.toLocaleString('en')],
        ['Chunks', chunkCount.toLocaleString('en')],
        ['Label pairs', numLabelPairs.toLocaleString('en')],
        ['From', some ? formatInstant(minTime) : '–'],
        ['To', some ? formatInstant(maxTime) : '–'],
        some && ['Span', coarse(maxTime - minTime)],
      ]} />
      <div class="columns">
        {LISTS.map(([field, title, head, link, format]) => (
          <section key={field}>
            <h2>{title}</h2>
            <Table rows={data[field] ?? []} limit={1000} columns={[
              { name: head, kind: 'wide', key: (row) => row.name, cell: (row) => <span class="mono">{link ? <a href={link(row.name)}>{row.name}</a> : row.name}</span> },
              { name: format ? 'Size' : 'Count', kind: 'number', key: (row) => row.value, cell: (row) => (format ?? ((n) => n.toLocaleString('en')))(row.value) },
            ]} />
          </section>
        ))}
      </div>
    </>
  );
}
