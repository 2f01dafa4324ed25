// Every flag and its value.
import { ask, usePolled } from '../lib/api.js';
import { found, Loaded, Search } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';

export function Flags() {
  const polled = usePolled(async (signal) => (await ask('api/v1/status/flags', { signal })).data, { every: 0 });
  const [search, setSearch] = useParam('search');
  return (
    <>
      <h1>Flags</h1>
      <Loaded polled={polled}>
        {(flags) => (
          <>
            <div class="bar"><Search value={search} onChange={setSearch} label="Flag or value…" /></div>
            <Table param="sort" rows={Object.entries(flags).filter(([name, value]) => found(search, name, value))} rowKey={([name]) => name} columns={[
              { name: 'Flag', key: ([name]) => name, cell: ([name]) => <span class="mono">--{name}</span> },
              { name: 'Value', kind: 'wide', key: ([, value]) => value, cell: ([, value]) => (value === '' ? <span class="muted">empty</span> : <span class="mono">{value}</span>) },
            ]} />
          </>
        )}
      </Loaded>
    </>
  );
}
