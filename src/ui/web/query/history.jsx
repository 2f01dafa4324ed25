// What ran before, to run it again.
import { useRef, useState } from 'preact/hooks';
import { found } from '../lib/parts.jsx';
import { keep } from '../lib/settings.js';
import { remembered } from './history.js';

export function History({ onPick }) {
  const dialog = useRef(null);
  const [list, setList] = useState([]);
  const [search, setSearch] = useState('');
  const open = () => {
    setList(remembered());
    setSearch('');
    dialog.current.showModal();
  };
  const pick = (query) => {
    dialog.current.close();
    onPick(query);
  };
  const forget = () => {
    keep('history', '[]');
    setList([]);
  };
  return (
    <>
      <button type="button" class="quiet" onClick={open}>History</button>
      <dialog ref={dialog} class="wide" onClick={(event) => event.target === dialog.current && dialog.current.close()}>
        <h2>Expressions that ran in this browser</h2>
        <input type="search" class="search" aria-label="Filter" placeholder="Filter" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
        <ul class="plain picks">
          {list.filter((query) => found(search, query)).map((query) => (
            <li key={query}><button type="button" class="pick mono" onClick={() => pick(query)}>{query}</button></li>
          ))}
          {!list.length && <li class="muted">None yet.</li>}
        </ul>
        <div class="bar">
          <button type="button" onClick={() => dialog.current.close()}>Close</button>
          {list.length > 0 && <button type="button" class="quiet" onClick={forget}>Forget all</button>}
        </div>
      </dialog>
    </>
  );
}
