// The alerting half: alerts in their groups, silences, what runs. The fragment of the address is Alertmanager's, so that
// links in notifications and templates (`#/alerts?receiver=…`, `#/silences/new?filter=…`) lead where they should.
import { useEffect, useState } from 'preact/hooks';
import { askAlertmanager, usePolled } from '../lib/api.js';
import { Banner, Copy, Loaded, Figures } from '../lib/parts.jsx';
import { coarse, instant } from '../lib/time.js';
import { AlertGroups } from './alertgroups.jsx';
import { Yaml } from './config.jsx';
import { SilenceForm } from './silenceform.jsx';
import { Silences } from './silences.jsx';

/** `#/silences/new?filter=x` as its parts and parameters. */
function readHash() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return { parts: path.split('/').filter(Boolean), params: new URLSearchParams(search) };
}

export function goTo(path, params) {
  const search = new URLSearchParams(params).toString();
  location.hash = `#/${path}${search ? `?${search}` : ''}`;
}

/** Changes the parameters of where one is, without a new place to come back to. */
export function replaceParams(path, params) {
  const kept = Object.fromEntries(Object.entries(params).filter(([, value]) => value));
  const search = new URLSearchParams(kept).toString();
  history.replaceState(null, '', `${location.pathname}${location.search}#/${path}${search ? `?${search}` : ''}`);
}

function useHash() {
  const [hash, set] = useState(readHash);
  useEffect(() => {
    const change = () => set(readHash());
    window.addEventListener('hashchange', change);
    window.addEventListener('popstate', change);
    return () => {
      window.removeEventListener('hashchange', change);
      window.removeEventListener('popstate', change);
    };
  }, []);
  return hash;
}

const TABS = [['alerts', 'Alerts'], ['silences', 'Silences'], ['silences/new', 'New silence'], ['status', 'Status']];

export function Alertmanager() {
  const { parts, params } = useHash();
  const status = usePolled((signal) => askAlertmanager('status', { signal }), { every: 30_000 });
  const [section = 'alerts', which, verb] = parts;
  const tab = section === 'silences' && (which === 'new' || verb === 'edit') ? 'silences/new' : section;
  return (
    <>
      <h1>Alertmanager</h1>
      {status.error && !status.data ? (
        <Banner kind={status.error.status === 404 ? 'info' : 'bad'}>{status.error.message}</Banner>
      ) : (
        <>
          <div class="bar tabs" role="group" aria-label="Part">
            {TABS.map(([path, text]) => <a key={path} href={`#/${path}`} aria-current={tab === path ? 'page' : undefined}>{text}</a>)}
          </div>
          {section === 'alerts' && <AlertGroups key={params.toString()} params={params} />}
          {section === 'silences' && tab === 'silences' && <Silences params={params} only={which} />}
          {tab === 'silences/new' && <SilenceForm key={`${which} ${params}`} id={verb === 'edit' ? which : null} filter={params.get('filter') ?? ''} />}
          {section === 'status' && <Loaded polled={status}>{(data) => <Running data={data} />}</Loaded>}
        </>
      )}
    </>
  );
}

function Running({ data }) {
  const { cluster = {}, versionInfo = {}, config = {}, uptime } = data;
  const since = instant(uptime);
  return (
    <>
      <Figures items={[
        ['Version', versionInfo.version || '–'],
        ['Up for', since === null ? '–' : coarse(Date.now() - since)],
        ['Mesh', cluster.status ?? '–', cluster.status && cluster.status !== 'ready' && cluster.status !== 'disabled' ? 'warn' : ''],
        ['Peers', cluster.peers?.length ?? '–'],
      ]} />
      <div class="bar"><h2>Configuration</h2><Copy text={config.original ?? ''} /></div>
      <Yaml text={config.original ?? ''} />
    </>
  );
}
