// Asking the peer that served the page. Every address is relative: the pages lie one level below the route prefix.
import { useEffect, useRef, useState } from 'preact/hooks';

/** What went wrong, in words for people, with what the peer said of it. */
export class ApiError extends Error {
  constructor(message, { status = 0, type = '', starting = false } = {}) {
    super(message);
    this.status = status;
    this.type = type;
    this.starting = starting;
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('This peer does not answer. It may be restarting, or the network between is down.');
  }
  if (response.status === 503 && response.headers.has('x-prometheus-stopping')) {
    const stopping = response.headers.get('x-prometheus-stopping') === 'true';
    const text = stopping ? 'This peer is stopping. Ask another one.' : 'This peer is starting: it catches up with the others first.';
    throw new ApiError(text, { status: 503, starting: !stopping });
  }
  return response;
}

async function readJson(response, path) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    const said = text.trim().slice(0, 300) || response.statusText;
    throw new ApiError(`${path} answered ${response.status}: ${said}`, { status: response.status });
  }
}

/** Longer questions go in a body: servers and proxies bound addresses. Shorter ones do not: proxies may let nobody POST. */
const ADDRESS_CHARS_MAX = 4000;

/** Prometheus' envelope: `data`, with `warnings` and `infos` beside it. `post`: whether a long question may be posted. */
export async function ask(path, { params, signal, post = false } = {}) {
  const form = params && new URLSearchParams(params).toString();
  const long = post && form.length > ADDRESS_CHARS_MAX;
  const address = form && !long ? `${path}?${form}` : path;
  const response = await request(address, long ? { method: 'POST', body: new URLSearchParams(form), signal } : { signal });
  if (response.status === 204) return { data: null, warnings: [], infos: [] };
  const body = await readJson(response, path);
  if (body.status !== 'success') {
    throw new ApiError(body.error ?? `${path} answered ${response.status}`, { status: response.status, type: body.errorType });
  }
  return { data: body.data, warnings: body.warnings ?? [], infos: body.infos ?? [] };
}

/** Alertmanager's API: plain JSON, errors as a JSON string. */
export async function askAlertmanager(path, { method = 'GET', body, signal } = {}) {
  const headers = body ? { 'content-type': 'application/json' } : {};
  const response = await request(`api/v2/${path}`, { method, headers, body: body && JSON.stringify(body), signal });
  if (response.status === 404 && path === 'status') {
    const text = 'This peer runs no alerting half: it answers nothing under /api/v2. Start it with --alertmanager.config.file, or ask the Alertmanager that gets its alerts.';
    throw new ApiError(text, { status: 404 });
  }
  if (!response.ok) {
    const said = (await response.text()).trim();
    let message = said;
    try {
      const parsed = JSON.parse(said);
      message = typeof parsed === 'string' ? parsed : (parsed.message ?? said);
    } catch {}
    throw new ApiError(message || `api/v2/${path} answered ${response.status}`, { status: response.status });
  }
  if (response.headers.get('content-length') === '0' || response.status === 204) return null;
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** The value as it was once nobody has changed it for `ms`: what is typed need not be asked at every letter. */
export function useSettled(value, ms = 250) {
  const [settled, set] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

const WHILE_STARTING_MS = 1500;

/**
 * Keeps what `load(signal)` gives, asking again every `every` ms while the page is seen.
 * What was there stays during a failure, so that a page does not go blank when a peer restarts.
 */
export function usePolled(load, { every = 10_000, deps = [] } = {}) {
  const [state, set] = useState({ data: undefined, error: null, at: null });
  const again = useRef(() => {});
  useEffect(() => {
    const aborter = new AbortController();
    let timer;
    const schedule = (ms) => {
      clearTimeout(timer);
      if (every > 0 && !aborter.signal.aborted) timer = setTimeout(run, ms);
    };
    const run = async () => {
      clearTimeout(timer);
      if (document.hidden) return;
      let next = every;
      try {
        const data = await load(aborter.signal);
        if (!aborter.signal.aborted) set({ data, error: null, at: Date.now() });
      } catch (error) {
        if (aborter.signal.aborted) return;
        if (error.starting) next = Math.min(every, WHILE_STARTING_MS);
        set((old) => ({ ...old, error }));
      }
      schedule(next);
    };
    const seen = () => !document.hidden && run();
    document.addEventListener('visibilitychange', seen);
    again.current = run;
    run();
    return () => {
      clearTimeout(timer);
      aborter.abort();
      document.removeEventListener('visibilitychange', seen);
    };
  }, deps);
  return { ...state, refresh: () => again.current() };
}
