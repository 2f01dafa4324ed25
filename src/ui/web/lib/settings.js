// What the reader chose, kept in this browser; and what stands in the address, so that it can be sent to a colleague.
import { useEffect, useState } from 'preact/hooks';

const PREFIX = 'promesh.';
const listeners = new Set();

export function setting(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {}
  for (const listener of listeners) listener();
}

/** A setting that redraws the page when it changes. */
export function useSetting(name, fallback) {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((n) => n + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return [setting(name) ?? fallback, (value) => keep(name, value)];
}

/** A value that stands in the address' query string; absent when it equals the fallback. */
export function useParam(name, fallback = '') {
  const read = () => new URLSearchParams(location.search).get(name) ?? fallback;
  const [value, set] = useState(read);
  useEffect(() => {
    const back = () => set(read());
    window.addEventListener('popstate', back);
    return () => window.removeEventListener('popstate', back);
  }, []);
  const change = (next) => {
    const params = new URLSearchParams(location.search);
    if (next === fallback) params.delete(name);
    else params.set(name, next);
    const query = params.toString();
    history.replaceState(null, '', `${location.pathname}${query ? `?${query}` : ''}${location.hash}`);
    set(next);
  };
  return [value, change];
}
