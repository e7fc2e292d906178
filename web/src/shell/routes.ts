import { lazy, type ComponentType, type LazyExoticComponent } from 'react';

/** A part of the app with a path of its own. Its code is loaded when it is first shown. */
export interface Route {
  path: string;
  title: string;
  page: LazyExoticComponent<ComponentType>;
}

/** All parts, the first being the default; the navigation lists them when there is more than one. */
export const ROUTES: readonly [Route, ...Route[]] = [
  { path: '/', title: 'Call', page: lazy(() => import('../call/CallPage')) },
];

/** The route of a path; anything unknown is the first. */
export function routeOf(path: string): Route {
  return ROUTES.find((route) => route.path === path.replace(/(.)\/+$/, '$1')) ?? ROUTES[0];
}
