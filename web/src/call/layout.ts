import { useEffect, useState, type RefObject } from 'react';

/** Shape that tiles come closest to: a camera's on a wide stage, rounder on an upright one. */
const ASPECT_WIDE = 16 / 9;
const ASPECT_UPRIGHT = 4 / 3;

/** The number of columns at which `count` tiles are largest in a box of the given size (any unit). */
export function bestColumns(count: number, width: number, height: number): number {
  const aspect = width < height ? ASPECT_UPRIGHT : ASPECT_WIDE;
  let best = 1;
  let largest = 0;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const tileWidth = Math.min(width / columns, (height / rows) * aspect);
    if (tileWidth > largest + 0.5) {
      largest = tileWidth;
      best = columns;
    }
  }
  return best;
}

/** `bestColumns` for an element, kept right as it changes size. */
export function useColumns(count: number, ref: RefObject<HTMLElement | null>): number {
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const observer = new ResizeObserver(([entry]) => entry && setSize(entry.contentRect));
    observer.observe(element);
    return () => observer.disconnect();
  }, [ref]);
  return bestColumns(count, size.width, size.height);
}
