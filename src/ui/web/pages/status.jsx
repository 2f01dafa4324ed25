// What this peer is and how it runs.
import { ask, usePolled } from '../lib/api.js';
import { Ago, Loaded } from '../lib/parts.jsx';
import { formatInstant, instant } from '../lib/time.js';

const WORDS = {
  startTime: 'Started', CWD: 'Working directory', hostname: 'Host', serverTime: 'Clock of the peer', reloadConfigSuccess: 'Last reload',
  lastConfigTime: 'Configuration of', corruptionCount: 'Corruptions', storageRetention: 'Retention', goroutineCount: 'Goroutines',
  version: 'Version', revision: 'Revision', branch: 'Branch', buildUser: 'Built by', buildDate: 'Built', goVersion: 'Tool chain',
};
const INSTANTS = new Set(['startTime', 'serverTime', 'lastConfigTime']);

async function load(signal) {
  const [runtime, build, alertmanagers] = await Promise.all(
    ['status/runtimeinfo', 'status/buildinfo', 'alertmanagers'].map((path) => ask(`api/v1/${path}`, { signal })),
  );
  return { runtime: runtime.data, build: build.data, alertmanagers: alertmanagers.data };
}

export function Status() {
  const polled = usePolled(load, { every: 15_000 });
  const licences = document.querySelector('meta[name="promesh-licences"]').content;
  return (
    <>
      <h1>Runtime and build</h1>
      <Loaded polled={polled}>
        {({ runtime, build, alertmanagers }) => (
          <div class="columns">
            <section><h2>Runtime</h2><Facts facts={runtime} /></section>
            <section>
              <h2>Build</h2><Facts facts={build} />
              <p class="muted">The pages contain <a href={licences}>packages by others</a>.</p>
            </section>
            <section><h2>Alertmanagers outside the mesh</h2><Outside {...alertmanagers} /></section>
          </div>
        )}
      </Loaded>
    </>
  );
}

function Facts({ facts }) {
  const shown = Object.entries(facts).filter(([, value]) => value !== '' && value !== null);
  return (
    <dl class="facts">
      {shown.map(([name, value]) => (
        <div key={name}><dt>{WORDS[name] ?? name}</dt><dd>{show(name, value)}</dd></div>
      ))}
    </dl>
  );
}

function show(name, value) {
  if (name === 'reloadConfigSuccess') return value ? 'succeeded' : <span class="error-text">failed: the configuration before it is in use</span>;
  if (!INSTANTS.has(name)) return String(value);
  const ms = instant(value);
  return <>{formatInstant(ms)} <span class="muted">(<Ago ms={ms} />)</span></>;
}

function Outside({ activeAlertmanagers, droppedAlertmanagers }) {
  if (!activeAlertmanagers.length && !droppedAlertmanagers.length) return <p class="muted">None are configured under <code>alerting</code>.</p>;
  return (
    <ul class="plain">
      {activeAlertmanagers.map(({ url }) => <li key={url} class="mono">{url}</li>)}
      {droppedAlertmanagers.map(({ url }) => <li key={url} class="mono muted">{url} (dropped)</li>)}
    </ul>
  );
}
