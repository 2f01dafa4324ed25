// Colours of series: hues far apart, of one lightness for each scheme, so that none shouts.
const LIGHT = ['#1d7a78', '#c2571a', '#5b4bb5', '#b5327a', '#5f7d14', '#a07400', '#2563b0', '#8a5a3c', '#2f8f4e', '#9a3fb0', '#b03a3a', '#52667a'];
const DARK = ['#5cc4bd', '#f0935a', '#a99cf0', '#ee7fb6', '#a9c95a', '#e3bb4e', '#78aef0', '#cf9f80', '#72cf8d', '#d18be0', '#f08585', '#9fb3c7'];

export const darkScheme = () => matchMedia('(prefers-color-scheme: dark)').matches;

export function seriesColour(i) {
  const colours = darkScheme() ? DARK : LIGHT;
  return colours[i % colours.length];
}
