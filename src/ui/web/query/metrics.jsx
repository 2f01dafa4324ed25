// Which metrics there are, with what they say of themselves.
import { useRef, useState } from 'preact/hooks';
import { ask } from '../lib/api.js';
import { Banner, count, found } from '../lib/parts.jsx';

const SHOWN_MAX = 200;

async function load() {
  const [names, metadata] = await Promise.all([ask('api/v1/label/__name__/values'), ask('api/v1/metadata').catch(() => ({ data: {} }))]);
  // Parts of classic histograms and summaries have their family's metadata.
  const of = (name) => metadata.data[name] ?? metadata.data[name.replace(/_(bucket|count|sum|total)$/, '')] ?? [];
  return names.data.map((name) => ({ name, type: of(name)[0]?.type ?? '', help: of(name)[0]?.help ?? '' }));
}

export function Metrics({ onPick }) {
  const dialog = useRef(null);
  const [state, set] = useState({ metrics: null, error: null });
  const [search, setSearch] = useState('');
  const open = () => {
    setSearch('');
    set({ metrics: null, error: null });
    dialog.current.showModal();
    load().then((metrics) => set({ metrics, error: null }), (error) => set({ metrics: null, error }));
  };
  const pick = (name) => {
    dialog.current.close();
    onPick(name);
  };
  const { metrics, error } = state;
  const matching = (metrics ?? []).filter(({ name, help, type }) => found(search, name, help, type));
  return (
    <>
      <button type="button" class="quiet" onClick={open}>Metrics</button>
      <dialog ref={dialog} class="wide" onClick={(event) => event.target === dialog.current && dialog.current.close()}>
        <h2>Metrics</h2>
        <input type="search" class="search" aria-label="Filter" placeholder="Name or description" value={search} onInput={(event) => setSearch(event.currentTarget.value)}
          onKeyDown={(event) => event.key === 'Enter' && matching.length && pick(matching[0].name)} />
        {error && <Banner kind="bad">{error.message}</Banner>}
        {!metrics && !error && <p class="muted">Asking the peer…</p>}
        <ul class="plain picks">
          {matching.slice(0, SHOWN_MAX).map(({ name, type, help }) => (
            <li key={name}><button type="button" class="pick" onClick={() => pick(name)}><span class="mono">{name}</span> <span class="tag">{type}</span><span class="sub">{help}</span></button></li>
          ))}
        </ul>
        <div class="bar">
          <button type="button" onClick={() => dialog.current.close()}>Close</button>
          {metrics && <span class="muted">{count(matching.length, 'metric')}{matching.length > SHOWN_MAX && `, the first ${SHOWN_MAX} are shown`}</span>}
        </div>
      </dialog>
    </>
  );
}
