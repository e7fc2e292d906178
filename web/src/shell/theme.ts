import { create } from 'zustand';

export type Theme = 'dark' | 'light';

const KEY = 'antipode.theme';

function stored(): Theme {
  try {
    return localStorage.getItem(KEY) === 'light' ? 'light' : 'dark';
  } catch {
    return 'dark'; // storage may be denied
  }
}

function apply(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // The choice then lasts until the page is closed.
  }
}

interface ThemeState {
  theme: Theme;
  toggle: () => void;
}

/** The colours of the page: dark unless chosen otherwise on this device. */
export const useTheme = create<ThemeState>((set, get) => ({
  theme: stored(),
  toggle: () => {
    const theme = get().theme === 'dark' ? 'light' : 'dark';
    apply(theme);
    set({ theme });
  },
}));

/** Gives the page the colours that were chosen earlier. */
export function restoreTheme(): void {
  apply(useTheme.getState().theme);
}
