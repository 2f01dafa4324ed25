// The query page: panels, each an expression with its table and its graph; all of it stands in the address.
import { useEffect, useRef, useState } from 'preact/hooks';
import { useSetting } from '../lib/settings.js';
import { emptyPanel, readPanels, writePanels } from './params.js';
import { Panel } from './panel.jsx';

const EVERY = [['0', 'Refresh: off'], ['5', 'every 5s'], ['15', 'every 15s'], ['60', 'every 1m']];

export function Query() {
  const [panels, set] = useState(() => readPanels());
  const [every, setEvery] = useSetting('refresh', '0');
  const [tick, setTick] = useState(0);
  const written = useRef(location.search);
  useEffect(() => {
    const back = () => {
      if (location.search !== written.current) {
        written.current = location.search;
        set(readPanels());
      }
    };
    window.addEventListener('popstate', back);
    return () => window.removeEventListener('popstate', back);
  }, []);
  useEffect(() => {
    if (every === '0') return undefined;
    const timer = setInterval(() => !document.hidden && setTick((n) => n + 1), Number(every) * 1000);
    return () => clearInterval(timer);
  }, [every]);
  const change = (next) => {
    set(next);
    const search = writePanels(next);
    if (search === location.search) return;
    // A page without a query yet is no place to come back to.
    const first = !new URLSearchParams(location.search).has('g0.expr');
    history[first ? 'replaceState' : 'pushState'](null, '', `query${search}`);
    written.current = location.search;
  };
  const update = (id, part) => change(panels.map((panel) => (panel.id === id ? { ...panel, ...part } : panel)));
  return (
    <>
      <h1 class="hidden">Query</h1>
      {panels.map((panel, i) => (
        <Panel key={panel.id} panel={panel} tick={tick} first={i === 0} onChange={(part) => update(panel.id, part)}
          onRemove={panels.length > 1 ? () => change(panels.filter(({ id }) => id !== panel.id)) : null} />
      ))}
      <div class="bar">
        <button type="button" onClick={() => change([...panels, emptyPanel()])}>Add a panel</button>
        <select aria-label="Refresh" value={every} onChange={(event) => setEvery(event.currentTarget.value)}>
          {EVERY.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
        </select>
      </div>
    </>
  );
}
