/** What a link to a call carries. */
export interface CallLink {
  room: string;
  /** Code of a region, or empty for the mesh's choice. */
  region: string;
}

/** Longest name of a room or person that the form takes. */
export const NAME_MAX = 64;

function clean(value: string | null): string {
  return (value ?? '').trim().slice(0, NAME_MAX);
}

/** Reads `?room=R&region=fra`. */
export function parseCallLink(search: string): CallLink {
  const query = new URLSearchParams(search);
  const region = clean(query.get('region')).toLowerCase();
  return { room: clean(query.get('room')), region: /^[a-z0-9-]*$/.test(region) ? region : '' };
}

/** The query of a link to a call; empty when there is nothing to say. */
export function callLinkQuery({ room, region }: CallLink): string {
  const query = new URLSearchParams();
  if (room !== '') query.set('room', room);
  if (region !== '') query.set('region', region);
  const text = query.toString();
  return text === '' ? '' : `?${text}`;
}

/** An identity nobody else in the room has: the name in plain letters and 40 random bits. */
export function makeIdentity(name: string): string {
  const plain = name
    .normalize('NFKD')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '');
  const random = crypto.getRandomValues(new Uint8Array(5));
  const suffix = Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${plain.slice(0, 24) || 'guest'}-${suffix}`;
}
