// Alerts as notifications group them.
import { useState } from 'preact/hooks';
import { askAlertmanager, usePolled, useSettled } from '../lib/api.js';
import { Ago, Banner, count, Labels, Loaded, State, webAddress } from '../lib/parts.jsx';
import { formatMatcher, formatMatchers, parseMatchers } from '../lib/matchers.js';
import { instant } from '../lib/time.js';
import { filterOf, linked } from './alerts.jsx';
import { replaceParams } from './alertmanager.jsx';
import { Select } from './targets.jsx';

const KINDS = { active: 'bad', suppressed: 'idle', unprocessed: 'warn' };
const SHOW = [['silenced', 'Silenced'], ['inhibited', 'Inhibited'], ['muted', 'Muted']];

function address(matchers, { receiver, show }) {
  const params = new URLSearchParams();
  for (const matcher of matchers) params.append('filter', formatMatcher(matcher));
  if (receiver) params.set('receiver', `^(?:${receiver.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')})$`);
  for (const [name] of SHOW) params.set(name, show.includes(name) ? 'true' : 'false');
  return `alerts/groups?${params}`;
}

export function AlertGroups({ params }) {
  const [text, setText] = useState(() => formatMatchers(parseMatchers(params.get('filter') ?? '') ?? []));
  const [receiver, setReceiver] = useState(params.get('receiver') ?? '');
  const [show, setShow] = useState(SHOW.map(([name]) => name).filter((name) => params.get(name) === 'true'));
  const matchers = parseMatchers(text);
  const wanted = useSettled(matchers ? address(matchers, { receiver, show }) : null);
  const load = async (signal) => {
    if (!wanted) return [];
    replaceParams('alerts', { filter: matchers.length ? `{${formatMatchers(matchers)}}` : '', receiver, ...Object.fromEntries(show.map((name) => [name, 'true'])) });
    return askAlertmanager(wanted, { signal });
  };
  const polled = usePolled(load, { every: 10_000, deps: [wanted] });
  const receivers = usePolled((signal) => askAlertmanager('receivers', { signal }), { every: 0 });
  const add = (name, value) => setText(formatMatchers([...(matchers ?? []).filter((one) => one.name !== name), { name, value, isRegex: false, isEqual: true }]));
  const toggle = (name) => setShow(show.includes(name) ? show.filter((one) => one !== name) : [...show, name]);
  return (
    <>
      <div class="bar">
        <input type="search" class={`search wide mono${matchers ? '' : ' bad'}`} data-search aria-label="Matchers" aria-invalid={!matchers} spellcheck={false}
          placeholder={'Matchers: severity="page", instance=~"db.*"'} value={text} onInput={(event) => setText(event.currentTarget.value)} />
        <Select label="Receiver" all="All receivers" value={receiver} onChange={setReceiver} options={(receivers.data ?? []).map(({ name }) => [name, name])} />
        {SHOW.map(([name, title]) => <label key={name} class="check"><input type="checkbox" checked={show.includes(name)} onChange={() => toggle(name)} /> {title}</label>)}
        {text && <a class="small" href={`#/silences/new?filter=${encodeURIComponent(`{${text}}`)}`}>Silence these</a>}
      </div>
      {!matchers && <Banner kind="warn">These are no matchers. They look like <code>name="value"</code> or <code>name=~"regex"</code>, with commas between.</Banner>}
      <Loaded polled={polled}>
        {(groups) => (groups.length ? groups.map((group, i) => <Group key={`${group.receiver.name} ${JSON.stringify(group.labels)} ${i}`} group={group} onPick={add} />)
          : <p class="muted quiet-night">{text || receiver ? 'No alert is like that.' : 'Nothing fires.'}</p>)}
      </Loaded>
    </>
  );
}

function Group({ group, onPick }) {
  const { labels, receiver, alerts } = group;
  const grouped = Object.keys(labels).length > 0;
  return (
    <details class="group" open>
      <summary class="group-head">
        {grouped ? <Labels labels={labels} /> : <span class="muted">not grouped</span>}
        <span class="muted right">{count(alerts.length, 'alert')} to <strong>{receiver.name}</strong></span>
      </summary>
      {alerts.map((alert) => <Alert key={alert.fingerprint} alert={alert} omit={Object.keys(labels)} onPick={onPick} />)}
    </details>
  );
}

function Alert({ alert, omit, onPick }) {
  const { labels, annotations, status, startsAt, generatorURL } = alert;
  const why = [
    ...(status.silencedBy ?? []).map((id) => <a key={id} href={`#/silences/${id}`}>silence {id.slice(0, 8)}</a>),
    status.inhibitedBy?.length > 0 && `inhibited by ${count(status.inhibitedBy.length, 'alert')}`,
    status.mutedBy?.length > 0 && `muted by ${status.mutedBy.join(', ')}`,
  ].filter(Boolean);
  return (
    <div class={`alert edge-${KINDS[status.state]}`}>
      <div class="alert-head">
        <State kind={KINDS[status.state]}>{status.state}</State>
        <Labels labels={labels} omit={omit} onPick={onPick} />
        <span class="right">
          <span class="muted"><Ago ms={instant(startsAt)} /></span>
          {webAddress(generatorURL) && <a class="small" href={generatorURL} rel="noreferrer">Source</a>}
          <a class="small" href={`#/silences/new?filter=${encodeURIComponent(filterOf(labels))}`}>Silence</a>
        </span>
      </div>
      {why.length > 0 && <div class="notes muted">{why.map((one, i) => <>{i > 0 && ', '}{one}</>)}</div>}
      {Object.keys(annotations ?? {}).length > 0 && (
        <div class="notes">{Object.entries(annotations).map(([name, text]) => <div key={name}><span class="muted">{name}</span> {linked(text)}</div>)}</div>
      )}
    </div>
  );
}
