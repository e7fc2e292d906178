import { Suspense, useEffect, useState, type MouseEvent } from 'react';
import { Boundary } from './Boundary';
import { Logo, MoonIcon, SunIcon } from './icons';
import { ROUTES, routeOf } from './routes';
import { useTheme } from './theme';

function Navigation({ current, onGo }: { current: string; onGo: (path: string) => void }) {
  const go = (event: MouseEvent, path: string) => {
    event.preventDefault();
    onGo(path);
  };
  return (
    <nav aria-label="Parts of the app" className="flex gap-1">
      {ROUTES.map(({ path, title }) => (
        <a
          key={path}
          href={path}
          onClick={(event) => go(event, path)}
          aria-current={path === current ? 'page' : undefined}
          className="rounded-lg px-3 py-1.5 text-sm text-soft hover:text-ink aria-[current]:bg-raised aria-[current]:text-ink"
        >
          {title}
        </a>
      ))}
    </nav>
  );
}

function ThemeToggle() {
  const { theme, toggle } = useTheme();
  const label = theme === 'dark' ? 'Use light colours' : 'Use dark colours';
  return (
    <button
      type="button"
      onClick={toggle}
      aria-label={label}
      title={label}
      className="rounded-lg p-2 text-soft hover:bg-raised hover:text-ink"
    >
      {theme === 'dark' ? <SunIcon /> : <MoonIcon />}
    </button>
  );
}

/** The frame around every part: sign, navigation, colours. */
export function App() {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const moved = () => setPath(location.pathname);
    addEventListener('popstate', moved);
    return () => removeEventListener('popstate', moved);
  }, []);
  const go = (to: string) => {
    history.pushState(null, '', to);
    setPath(to);
  };
  const route = routeOf(path);
  return (
    <div className="flex h-dvh flex-col">
      <header className="flex items-center gap-3 px-4 py-2.5">
        <Logo />
        <span className="text-lg font-bold tracking-tight">Antipode</span>
        {ROUTES.length > 1 && <Navigation current={route.path} onGo={go} />}
        <span className="flex-1" />
        <ThemeToggle />
      </header>
      <Boundary key={route.path}>
        <Suspense fallback={<p className="p-6 text-soft">Loading…</p>}>
          <route.page />
        </Suspense>
      </Boundary>
    </div>
  );
}
