import { GatewayError, UnreachableError } from './errors';

/** How long the gateway may take to answer, in ms. */
const TIMEOUT_MS = 10_000;

/** A region that the mesh serves. */
export interface Region {
  /** Short code, for example `fra`. */
  code: string;
  /** From the gateway's idea of where this client is, in km; undefined when it has none. */
  distanceKm: number | undefined;
}

/** What a join needs. */
export interface JoinGrant {
  /** WebSocket URL of the edge that was chosen. */
  serverUrl: string;
  token: string;
  /** Region of that edge, when the gateway says it. */
  region: string | undefined;
  /** Whose data told where this client is; its licence wants that shown. */
  attribution: Attribution | undefined;
}

/** Whose data was used. */
export interface Attribution {
  text: string;
  url: string;
}

/** Who wants to join what. An empty `region` leaves the choice to the mesh. */
export interface JoinRequest {
  room: string;
  name: string;
  identity: string;
  region: string;
}

type Fields = Record<string, unknown>;

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

async function request(path: string, init: RequestInit = {}): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new UnreachableError(`no answer to ${path}`);
  }
  const body: unknown = await response.json().catch(() => undefined);
  if (response.ok) return body;
  const error = isFields(body) && isFields(body.error) ? body.error : {};
  const message = text(error.message) ?? `the gateway answered ${response.status}`;
  throw new GatewayError(response.status, text(error.code), message);
}

/** Reads the answer of `/settings/regions`; entries without a code are skipped, nearest first. */
export function parseRegions(body: unknown): Region[] {
  const list = isFields(body) && Array.isArray(body.regions) ? body.regions : [];
  const regions = list.flatMap((entry: unknown) => {
    const code = isFields(entry) ? text(entry.region) : undefined;
    if (code === undefined || !isFields(entry)) return [];
    const metres = Number(entry.distance ?? Number.NaN);
    return [{ code, distanceKm: metres > 0 ? Math.round(metres / 1000) : undefined }];
  });
  const far = Number.POSITIVE_INFINITY;
  return regions.sort(
    (a, b) => (a.distanceKm ?? far) - (b.distanceKm ?? far) || a.code.localeCompare(b.code),
  );
}

function parseAttribution(body: unknown): Attribution | undefined {
  const words = isFields(body) ? text(body.text) : undefined;
  const url = isFields(body) ? text(body.url) : undefined;
  return words !== undefined && url?.startsWith('https://') ? { text: words, url } : undefined;
}

/** Reads the answer of `/api/token`; throws when it lacks the URL or the token. */
export function parseJoinGrant(body: unknown): JoinGrant {
  const serverUrl = isFields(body) ? text(body.server_url) : undefined;
  const token = isFields(body) ? text(body.participant_token) : undefined;
  if (!isFields(body) || serverUrl === undefined || token === undefined) {
    throw new GatewayError(502, undefined, 'the gateway gave no token');
  }
  const attribution = parseAttribution(body.attribution);
  return { serverUrl, token, region: text(body.region), attribution };
}

/** The regions that this mesh serves. */
export async function fetchRegions(): Promise<Region[]> {
  return parseRegions(await request('/settings/regions'));
}

/** Asks for a token and the edge to use it at. */
export async function fetchJoinGrant({ room, name, identity, region }: JoinRequest): Promise<JoinGrant> {
  const body = {
    room_name: room,
    participant_name: name,
    participant_identity: identity,
    ...(region !== '' && { region }),
  };
  const answer = await request('/api/token', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return parseJoinGrant(answer);
}
