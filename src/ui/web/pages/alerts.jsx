// Alerting rules and their alerts, by group.
import { useEffect, useState } from 'preact/hooks';
import { ask, usePolled } from '../lib/api.js';
import { Ago, Banner, found, Labels, Loaded, queryLink, Search, State, Toggles } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { formatSpan, instant, shortSeconds } from '../lib/time.js';

export const STATES = { firing: 'bad', pending: 'warn', inactive: 'ok', unknown: 'idle' };
/** With more firing rules than this they are closed at first: names and counts say more than a wall of labels. */
const OPEN_MAX = 20;
const ORDER = ['firing', 'pending', 'inactive', 'unknown'];

export function Alerts() {
  const polled = usePolled(async (signal) => (await ask('api/v1/rules', { params: { type: 'alert' }, signal })).data.groups, { every: 10_000 });
  return (
    <>
      <h1>Alerts</h1>
      <Loaded polled={polled}>{(groups) => <Groups groups={groups} />}</Loaded>
    </>
  );
}

const badness = ({ state }) => ORDER.indexOf(state);
const worstFirst = (rules) => rules.sort((a, b) => badness(a) - badness(b));

function Groups({ groups }) {
  const [states, setStates] = useParam('state');
  const [search, setSearch] = useParam('search');
  const [open, setOpen] = useParam('open');
  const all = groups.flatMap((group) => group.rules);
  if (!all.length) return <Banner kind="info">No alerting rules are loaded. They stand in the files under <code>rule_files</code> of the configuration.</Banner>;
  const wanted = states ? states.split(',') : [];
  const counts = Object.fromEntries(ORDER.map((state) => [state, all.filter((rule) => rule.state === state).length]));
  const takes = (rule) => (!wanted.length || wanted.includes(rule.state))
    && found(search, rule.name, rule.query, rule.labels, ...(rule.alerts ?? []).map(({ labels }) => labels));
  const shown = groups.map((group) => [group, worstFirst(group.rules.filter(takes))]).filter(([, rules]) => rules.length).sort(([, a], [, b]) => badness(a[0]) - badness(b[0]));
  const firing = shown.reduce((sum, [, rules]) => sum + rules.filter(({ state }) => state === 'firing').length, 0);
  return (
    <>
      <div class="bar">
        <Toggles label="State" value={states} onChange={setStates}
          options={ORDER.filter((state) => state !== 'unknown' || counts.unknown).map((state) => [state, state, counts[state], STATES[state]])} />
        <Search value={search} onChange={setSearch} label="Name, expression, label…" />
        <label class="check"><input type="checkbox" checked={open === 'all'} onChange={(event) => setOpen(event.currentTarget.checked ? 'all' : '')} /> Open all</label>
      </div>
      {!shown.length && <p class="muted">No rule is like that.</p>}
      {shown.map(([group, rules]) => (
        <section class="group" key={`${group.file};${group.name}`}>
          <GroupHead group={group} />
          {rules.map((rule, i) => <AlertRule key={`${rule.name} ${i}`} rule={rule} open={open === 'all' || (rule.state === 'firing' && firing <= OPEN_MAX)} />)}
        </section>
      ))}
    </>
  );
}

export function GroupHead({ group }) {
  return (
    <div class="group-head">
      <h2>{group.name}</h2>
      <span class="muted mono">{group.file}</span>
      <span class="muted right">
        every {formatSpan(group.interval * 1000)}
        {group.limit > 0 && `, at most ${group.limit} results`}
        {instant(group.lastEvaluation) !== null && <>, last <Ago ms={instant(group.lastEvaluation)} /> in {shortSeconds(group.evaluationTime)}</>}
      </span>
    </div>
  );
}

function AlertRule({ rule, open }) {
  const [shown, setShown] = useState(open);
  useEffect(() => setShown(open), [open]);
  const alerts = rule.alerts ?? [];
  const by = (state) => alerts.filter((alert) => alert.state === state).length;
  const tally = [by('firing') && `${by('firing')} firing`, by('pending') && `${by('pending')} pending`].filter(Boolean).join(', ');
  return (
    <details class={`rule edge-${STATES[rule.state]}`} open={shown} onToggle={(event) => setShown(event.currentTarget.open)}>
      <summary>
        <State kind={STATES[rule.state]}>{rule.state}</State>
        <span class="rule-name">{rule.name}</span>
        {rule.health === 'err' && <span class="tag tag-bad">failing</span>}
        <Labels labels={rule.labels} />
        <span class="muted right">{tally}</span>
      </summary>
      {shown && (
        <div class="rule-body">
          {rule.lastError && <Banner kind="bad" title="The last evaluation failed:">{rule.lastError}</Banner>}
          <Definition rule={rule} />
          {alerts.length > 0 && <Active alerts={alerts} omit={Object.keys(rule.labels ?? {})} />}
        </div>
      )}
    </details>
  );
}

/** The rule as it stands in its file. */
export function Definition({ rule }) {
  return (
    <dl class="definition">
      <dt>expr</dt><dd><a class="expr" href={queryLink(rule.query, 'graph')} title="Run it">{rule.query}</a></dd>
      {rule.duration > 0 && <><dt>for</dt><dd>{formatSpan(rule.duration * 1000)}</dd></>}
      {rule.keepFiringFor > 0 && <><dt>keep_firing_for</dt><dd>{formatSpan(rule.keepFiringFor * 1000)}</dd></>}
      {Object.entries(rule.annotations ?? {}).map(([name, text]) => <><dt>{name}</dt><dd class="text">{linked(text)}</dd></>)}
    </dl>
  );
}

/** Addresses in annotations (runbooks, dashboards) as links. */
export function linked(text) {
  return text.split(/(https?:\/\/[^\s"'<>)]+)/).map((part, i) => (i % 2 ? <a href={part} rel="noreferrer">{part}</a> : part));
}

function Active({ alerts, omit }) {
  const columns = [
    { name: 'State', key: (a) => ORDER.indexOf(a.state), cell: (a) => <State kind={STATES[a.state]}>{a.state}</State> },
    { name: 'Labels', kind: 'wide', key: (a) => JSON.stringify(a.labels), cell: (a) => <><Labels labels={a.labels} omit={[...omit, 'alertname']} /><Notes annotations={a.annotations} /></> },
    { name: 'Since', key: (a) => instant(a.activeAt) ?? 0, cell: (a) => <><Ago ms={instant(a.activeAt)} />{a.keepFiringSince && <span class="sub">kept firing since <Ago ms={instant(a.keepFiringSince)} /></span>}</> },
    { name: 'Value', kind: 'number', key: (a) => Number(a.value), cell: (a) => plainNumber(a.value) },
    { name: '', cell: (a) => <a class="small" href={`alertmanager#/silences/new?filter=${encodeURIComponent(filterOf(a.labels))}`}>Silence</a> },
  ];
  return <Table columns={columns} rows={alerts} />;
}

function Notes({ annotations }) {
  const texts = Object.entries(annotations ?? {});
  return texts.length > 0 && <div class="notes">{texts.map(([name, text]) => <div key={name}><span class="muted">{name}</span> {linked(text)}</div>)}</div>;
}

/** Matchers that take exactly this alert, as Alertmanager writes them. */
export function filterOf(labels) {
  const quote = (value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
  return `{${Object.entries(labels).map(([name, value]) => `${name}=${quote(value)}`).join(',')}}`;
}

/** `1e+00` as `1`: Go prints values of alerts in a way that nobody reads. */
export const plainNumber = (text) => (/^[-+]?\d/.test(text) ? String(Number(text)) : text);

