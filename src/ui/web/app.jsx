// The frame around the pages: the way between them, how the mesh is, keys.
import { render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { ask, usePolled } from './lib/api.js';
import { useSetting } from './lib/settings.js';
import { verdict } from './lib/mesh.js';
import { Alerts } from './pages/alerts.jsx';
import { Alertmanager } from './pages/alertmanager.jsx';
import { Cluster } from './pages/cluster.jsx';
import { Config } from './pages/config.jsx';
import { Discovery } from './pages/discovery.jsx';
import { Flags } from './pages/flags.jsx';
import { Rules } from './pages/rules.jsx';
import { Status } from './pages/status.jsx';
import { Targets } from './pages/targets.jsx';
import { Tsdb } from './pages/tsdb.jsx';
import { Query } from './query/page.jsx';

// path, title, page, key after `g`
const PAGES = [
  ['query', 'Query', Query, 'q'],
  ['alerts', 'Alerts', Alerts, 'a'],
  ['rules', 'Rules', Rules, 'r'],
  ['targets', 'Targets', Targets, 't'],
  ['alertmanager', 'Alertmanager', Alertmanager, 'm'],
  ['cluster', 'Cluster', Cluster, 'c'],
];
const MORE = [
  ['service-discovery', 'Service discovery', Discovery, 'd'],
  ['status', 'Runtime and build', Status, 's'],
  ['tsdb-status', 'Storage', Tsdb, 'b'],
  ['config', 'Configuration', Config, 'o'],
  ['flags', 'Flags', Flags, 'f'],
];
const ALIASES = { graph: 'query', 'alertmanager-discovery': 'status' };
const ALL = [...PAGES, ...MORE];

/** What `--web.page-title` is when nobody gave one: Prometheus' own name says nothing here. */
const TITLE_UNSET = 'Prometheus Time Series Collection and Processing Server';
const title = () => {
  const given = document.querySelector('meta[name="promesh-title"]')?.content;
  return !given || given === TITLE_UNSET ? 'promesh' : given;
};
const currentPath = () => {
  const last = location.pathname.split('/').pop();
  return ALIASES[last] ?? last;
};

/** Links in notifications are Alertmanager's: `/#/alerts?receiver=…`, `/#/silences/new?filter=…`. */
function followAlertmanagerLink() {
  const found = /^#\/(alerts|silences|status)/.exec(location.hash);
  if (found && currentPath() !== 'alertmanager') location.replace(`alertmanager${location.hash}`);
}

function useRoute() {
  const [path, set] = useState(currentPath());
  useEffect(() => {
    const back = () => set(currentPath());
    const click = (event) => {
      const link = event.target.closest?.('a[href]');
      if (!link || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || link.target) return;
      const there = new URL(link.href);
      const name = there.pathname.split('/').pop();
      const inside = there.origin === location.origin && new URL('.', there).href === new URL('.', location.href).href;
      if (!inside || !ALL.some(([page]) => page === name)) return;
      event.preventDefault();
      if (there.href === location.href && !there.search) return;
      history.pushState(null, '', there.href);
      set(name);
      window.dispatchEvent(new PopStateEvent('popstate'));
      window.scrollTo(0, 0);
    };
    window.addEventListener('popstate', back);
    document.addEventListener('click', click);
    return () => {
      window.removeEventListener('popstate', back);
      document.removeEventListener('click', click);
    };
  }, []);
  return path;
}

const typing = (target) => target.closest?.('input, textarea, select, .editor, [contenteditable]');

/** `/` to the search or the expression, `g` and a letter to a page, `?` for these keys. */
function useKeys(onHelp) {
  useEffect(() => {
    let afterG = 0;
    const key = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === 'Escape' && typing(event.target)) return event.target.blur?.();
      if (typing(event.target)) return;
      if (event.key === '/') {
        const field = document.querySelector('[data-search]');
        if (field) {
          event.preventDefault();
          field.focus();
        }
      } else if (event.key === '?') onHelp();
      else if (event.key === 'g') afterG = Date.now();
      else if (Date.now() - afterG < 1500) {
        const page = ALL.find(([, , , letter]) => letter === event.key);
        afterG = 0;
        if (page) document.querySelector(`nav a[href="${page[0]}"]`)?.click();
      }
    };
    document.addEventListener('keydown', key);
    return () => document.removeEventListener('keydown', key);
  }, []);
}

function Mesh() {
  const polled = usePolled(async (signal) => (await ask('api/v1/cluster', { signal })).data, { every: 10_000 });
  const { data, error } = polled;
  if (!data && !error) return null;
  const { kind, short } = error ? { kind: error.starting ? 'warn' : 'bad', short: error.starting ? 'starting' : 'no answer' } : verdict(data);
  const mark = { ok: '●', warn: '▲', bad: '■' }[kind];
  return (
    <a href="cluster" class={`mesh state-${kind}`} title="How the mesh is">
      <span class="mark" aria-hidden="true">{mark}</span> {short}
    </a>
  );
}

function More({ path }) {
  const box = useRef(null);
  const here = MORE.find(([page]) => page === path);
  useEffect(() => {
    const close = (event) => !event.target.closest?.('summary') && box.current?.removeAttribute('open');
    document.addEventListener('click', close);
    return () => document.removeEventListener('click', close);
  }, []);
  return (
    <details class="more" ref={box} onKeyDown={(event) => event.key === 'Escape' && box.current.removeAttribute('open')}>
      <summary class={here ? 'here' : ''}>{here ? here[1] : 'Status'}</summary>
      <div class="menu">
        {MORE.map(([page, title]) => <a key={page} href={page} aria-current={page === path ? 'page' : undefined}>{title}</a>)}
      </div>
    </details>
  );
}

function Keys({ onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return (
    <dialog ref={dialog} onClose={onClose} onClick={(event) => event.target === dialog.current && dialog.current.close()}>
      <h2>Keys</h2>
      <table class="keys">
        <tbody>
          <tr><td><kbd>/</kbd></td><td>search, or the expression</td></tr>
          <tr><td><kbd>Enter</kbd></td><td>run the expression (<kbd>Shift</kbd> <kbd>Enter</kbd>: new line)</td></tr>
          <tr><td><kbd>Ctrl</kbd> <kbd>Space</kbd></td><td>what could stand here</td></tr>
          <tr><td><kbd>Esc</kbd></td><td>leave the field</td></tr>
          {ALL.map(([page, title, , letter]) => <tr key={page}><td><kbd>g</kbd> <kbd>{letter}</kbd></td><td>{title}</td></tr>)}
        </tbody>
      </table>
      <form method="dialog"><button type="submit">Close</button></form>
    </dialog>
  );
}

function App() {
  const path = useRoute();
  const [clock, setClock] = useSetting('clock', 'utc');
  const [help, setHelp] = useState(false);
  useKeys(() => setHelp(true));
  const [, name, Page] = ALL.find(([page]) => page === path) ?? PAGES[0];
  useEffect(() => {
    document.title = `${name} · ${title()}`;
  }, [name]);
  return (
    <>
      <a class="skip" href="#main">To the page</a>
      <header>
        <a class="brand" href="query">
          <img src={document.querySelector('link[rel=icon]').href} alt="" width="22" height="22" />
          <span>{title()}</span>
        </a>
        <nav aria-label="Pages">
          {PAGES.map(([page, text]) => <a key={page} href={page} aria-current={page === path ? 'page' : undefined}>{text}</a>)}
          <More path={path} />
        </nav>
        <div class="ends">
          <Mesh />
          <button type="button" class="quiet" title="Show instants in UTC or in this browser's time zone" onClick={() => setClock(clock === 'utc' ? 'local' : 'utc')}>
            {clock === 'utc' ? 'UTC' : 'local time'}
          </button>
          <button type="button" class="quiet" title="Keys" aria-label="Keys" onClick={() => setHelp(true)}>?</button>
        </div>
      </header>
      <main id="main" tabIndex={-1} key={`${path} ${clock}`}><Page /></main>
      {help && <Keys onClose={() => setHelp(false)} />}
    </>
  );
}

followAlertmanagerLink();
document.getElementById('app').replaceChildren();
render(<App />, document.getElementById('app'));
