// Expressions that ran in this browser, newest first.
import { keep, setting } from '../lib/settings.js';

const MOST = 100;

export function remembered() {
  try {
    const list = JSON.parse(setting('history') ?? '[]');
    return Array.isArray(list) ? list.filter((one) => typeof one === 'string') : [];
  } catch {
    return [];
  }
}

export function remember(expr) {
  if (!expr.trim()) return;
  keep('history', JSON.stringify([expr, ...remembered().filter((one) => one !== expr)].slice(0, MOST)));
}
