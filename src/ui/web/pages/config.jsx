// The configuration as meant, secrets masked.
import { ask, usePolled } from '../lib/api.js';
import { Copy, Loaded, Search } from '../lib/parts.jsx';
import { useParam } from '../lib/settings.js';

export function Config() {
  const polled = usePolled(async (signal) => (await ask('api/v1/status/config', { signal })).data.yaml, { every: 30_000 });
  const [search, setSearch] = useParam('search');
  return (
    <>
      <h1>Configuration</h1>
      <Loaded polled={polled}>
        {(yaml) => (
          <>
            <div class="bar">
              <Search value={search} onChange={setSearch} label="Find a line" />
              <Copy text={yaml} />
              <span class="muted">As this peer means it, with defaults; secrets are masked.</span>
            </div>
            <Yaml text={yaml} needle={search.toLowerCase()} />
          </>
        )}
      </Loaded>
    </>
  );
}

export function Yaml({ text, needle = '' }) {
  return (
    <pre class="yaml">
      {text.replace(/\n$/, '').split('\n').map((line, i) => (
        <div key={i} class={needle && line.toLowerCase().includes(needle) ? 'hit' : ''}>{highlight(line)}</div>
      ))}
    </pre>
  );
}

function highlight(line) {
  const found = /^(\s*(?:- )*)([A-Za-z0-9_.-]+)(:)(.*)$/.exec(line);
  if (!found) return line || ' ';
  const [, indent, key, colon, rest] = found;
  return <>{indent}<span class="yaml-key">{key}</span>{colon}{rest}</>;
}
