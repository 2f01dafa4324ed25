// All rules, recording ones too, with how their evaluations went.
import { ask, usePolled } from '../lib/api.js';
import { Ago, Banner, found, Labels, Loaded, queryLink, Search, State, Toggles } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';
import { Table } from '../lib/table.jsx';
import { instant, shortSeconds } from '../lib/time.js';
import { Definition, GroupHead, STATES } from './alerts.jsx';

const HEALTH = { ok: 'ok', err: 'bad', unknown: 'idle' };
const WORDS = { ok: 'ok', err: 'failing', unknown: 'not yet run' };

export function Rules() {
  const polled = usePolled(async (signal) => (await ask('api/v1/rules', { signal })).data.groups, { every: 15_000 });
  return (
    <>
      <h1>Rules</h1>
      <Loaded polled={polled}>{(groups) => <Groups groups={groups} />}</Loaded>
    </>
  );
}

function Groups({ groups }) {
  const [health, setHealth] = useParam('health');
  const [kind, setKind] = useParam('type');
  const [search, setSearch] = useParam('search');
  const all = groups.flatMap((group) => group.rules);
  if (!all.length) return <Banner kind="info">No rules are loaded. Their files stand under <code>rule_files</code> of the configuration.</Banner>;
  const of = (list, value) => !list || list.split(',').includes(value);
  const takes = (rule) => of(health, rule.health) && of(kind, rule.type) && found(search, rule.name, rule.query, rule.labels);
  const tally = (field, value) => all.filter((rule) => rule[field] === value).length;
  const shown = groups.map((group) => [group, group.rules.filter(takes)]).filter(([, rules]) => rules.length);
  return (
    <>
      <div class="bar">
        <Toggles label="Health" value={health} onChange={setHealth} options={['err', 'unknown', 'ok'].map((one) => [one, WORDS[one], tally('health', one), HEALTH[one]])} />
        <Toggles label="Kind" value={kind} onChange={setKind} options={['alerting', 'recording'].map((one) => [one, one, tally('type', one)])} />
        <Search value={search} onChange={setSearch} label="Name, expression, label…" />
      </div>
      {!shown.length && <p class="muted">No rule is like that.</p>}
      {shown.map(([group, rules]) => (
        <section class="group" key={`${group.file};${group.name}`}>
          <GroupHead group={group} />
          <Table rows={rows(rules)} columns={COLUMNS} rowKey={(r) => r.place} rowClass={(r) => r.health === 'err' && 'row-bad'}
            detail={(r) => r.lastError && <span class="error-text">{r.lastError}</span>} />
        </section>
      ))}
    </>
  );
}

const rows = (rules) => rules.map((rule, place) => ({ ...rule, place }));

const COLUMNS = [
  { name: 'Rule', key: (r) => r.name, cell: (r) => <><span class="rule-name">{r.name}</span><span class="sub">{r.type}</span></> },
  { name: 'Definition', kind: 'wide', cell: (r) => (r.type === 'alerting' ? <Definition rule={{ ...r, annotations: {} }} /> : <a class="expr" href={queryLink(r.query, 'graph')} title="Run it">{r.query}</a>) },
  { name: 'Labels', cell: (r) => (Object.keys(r.labels ?? {}).length ? <Labels labels={r.labels} /> : '') },
  { name: 'State', key: (r) => r.state ?? '', cell: (r) => r.state && <a href={`alerts?search=${encodeURIComponent(r.name)}&open=all`}><State kind={STATES[r.state]}>{r.state}</State></a> },
  { name: 'Health', key: (r) => r.health, cell: (r) => <State kind={HEALTH[r.health]}>{WORDS[r.health]}</State> },
  { name: 'Last run', key: (r) => instant(r.lastEvaluation) ?? 0, cell: (r) => <Ago ms={instant(r.lastEvaluation)} /> },
  { name: 'Took', kind: 'number', key: (r) => r.evaluationTime, cell: (r) => shortSeconds(r.evaluationTime) },
];
