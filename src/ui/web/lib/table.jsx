// A table that sorts by any column and shows no more rows than a page can bear.
import { useState } from 'preact/hooks';
import { useParam } from './settings.js';

const collator = new Intl.Collator('en', { numeric: true });
const compare = (a, b) => {
  const [x, y] = [a ?? '', b ?? ''];
  return typeof x === 'number' && typeof y === 'number' ? (Number.isNaN(x) ? -1 : Number.isNaN(y) ? 1 : x - y) : collator.compare(String(x), String(y));
};

/**
 * `columns`: {name, key(row), cell(row), kind: 'number' | 'wide' | …}; a column without `key` does not sort.
 * `param` names the sort order in the address; `rowClass(row)` marks rows; `detail(row)` adds a line below.
 */
export function Table({ columns, rows, param, rowKey, rowClass, detail, empty = 'Nothing here.', limit = 500 }) {
  const remembered = useParam(param ?? 'sort', '');
  const local = useState('');
  const [order, setOrder] = param ? remembered : local;
  const [all, showAll] = useState(false);
  const descending = order.startsWith('-');
  const column = columns.find(({ name }) => name === order.replace(/^-/, ''));
  const sorted = column?.key ? [...rows].sort((a, b) => compare(column.key(a), column.key(b)) * (descending ? -1 : 1)) : rows;
  const shown = all ? sorted : sorted.slice(0, limit);
  const sortBy = (name, kind) => {
    const first = kind === 'number' ? `-${name}` : name;
    const second = kind === 'number' ? name : `-${name}`;
    setOrder(order === first ? second : order === second ? '' : first);
  };
  return (
    <div class="table-box">
      <table>
        <thead>
          <tr>
            {columns.map(({ name, key, kind }) => (
              <th key={name} class={kind} aria-sort={column?.name === name ? (descending ? 'descending' : 'ascending') : undefined}>
                {key ? <button type="button" onClick={() => sortBy(name, kind)}>{name}</button> : name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map((row, i) => {
            const id = rowKey ? rowKey(row) : i;
            const more = detail?.(row);
            return [
              <tr key={id} class={rowClass?.(row)}>{columns.map(({ name, cell, kind }) => <td key={name} class={kind}>{cell(row)}</td>)}</tr>,
              more && <tr key={`${id}/more`} class="detail"><td colSpan={columns.length}>{more}</td></tr>,
            ];
          })}
          {!rows.length && <tr><td class="muted" colSpan={columns.length}>{empty}</td></tr>}
        </tbody>
      </table>
      {shown.length < rows.length && (
        <p class="muted">
          The first {shown.length} of {rows.length.toLocaleString('en')} rows.{' '}
          <button type="button" class="small" onClick={() => showAll(true)}>Show all</button>
        </p>
      )}
    </div>
  );
}
