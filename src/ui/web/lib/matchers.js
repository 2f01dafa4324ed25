// Matchers as Alertmanager writes them: `alertname="Down",instance=~"a.*"`, with or without braces.

const unquote = (text) => text.slice(1, -1).replace(/\\(.)/gs, (_, c) => ({ n: '\n', t: '\t' })[c] ?? c);
const quote = (text) => `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;

const ONE = /\s*("(?:[^"\\]|\\.)*"|[^\s=!~,{}"]+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|[^",{}]*)\s*(?:,|$)/gsy;

/** The matchers of a text; null when it is none. An empty text has none. */
export function parseMatchers(text) {
  const inner = text.trim().replace(/^\{/, '').replace(/\}$/, '').trim().replace(/,$/, '');
  if (!inner) return [];
  const matchers = [];
  ONE.lastIndex = 0;
  while (ONE.lastIndex < inner.length) {
    const found = ONE.exec(inner);
    if (!found) return null;
    const [, name, operator, value] = found;
    matchers.push({
      name: name.startsWith('"') ? unquote(name) : name,
      value: value.startsWith('"') ? unquote(value) : value.trim(),
      isRegex: operator.endsWith('~'),
      isEqual: operator.startsWith('='),
    });
  }
  return matchers;
}

const OPERATORS = { 'true false': '=', 'false false': '!=', 'true true': '=~', 'false true': '!~' };

export const operatorOf = ({ isEqual = true, isRegex }) => OPERATORS[`${isEqual} ${Boolean(isRegex)}`];

export function formatMatcher(matcher) {
  const name = /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(matcher.name) ? matcher.name : quote(matcher.name);
  return `${name}${operatorOf(matcher)}${quote(matcher.value)}`;
}

export const formatMatchers = (matchers) => matchers.map(formatMatcher).join(', ');
