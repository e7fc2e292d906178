import { afterEach, describe, expect, it, vi } from 'vitest';
import { GatewayError, UnreachableError, describeJoinError, describeMediaError } from './errors';
import { fetchJoinGrant, fetchRegions, parseJoinGrant, parseRegions } from './gateway';

function answer(status: number, body: unknown): void {
  vi.stubGlobal(
    'fetch',
    vi.fn(async () => new Response(JSON.stringify(body), { status })),
  );
}

afterEach(() => vi.unstubAllGlobals());

describe('regions', () => {
  it('come nearest first, with distances in km', () => {
    const body = {
      regions: [
        { region: 'syd', url: 'ws://b', distance: '16500000' },
        { region: 'iad', url: 'ws://c', distance: 0 },
        { region: 'fra', url: 'ws://a', distance: 12_300 },
      ],
    };
    expect(parseRegions(body)).toEqual([
      { code: 'fra', distanceKm: 12 },
      { code: 'syd', distanceKm: 16_500 },
      { code: 'iad', distanceKm: undefined },
    ]);
  });

  it('are none when the answer is something else', () => {
    for (const body of [
      undefined,
      null,
      [],
      'x',
      { regions: 3 },
      { regions: [null, 1, {}, { region: '' }] },
    ]) {
      expect(parseRegions(body)).toEqual([]);
    }
  });

  it('are fetched from the gateway', async () => {
    answer(200, { regions: [{ region: 'fra', url: 'ws://a' }] });
    expect(await fetchRegions()).toEqual([{ code: 'fra', distanceKm: undefined }]);
  });
});

describe('a join grant', () => {
  const grant = { server_url: 'ws://edge', participant_token: 'jwt', region: 'fra' };
  const wanted = { room: 'r', name: 'Ada', identity: 'ada-1', region: '' };

  it('is asked for with the fields of a token source, the region only when chosen', async () => {
    answer(200, grant);
    expect(await fetchJoinGrant(wanted)).toEqual({ serverUrl: 'ws://edge', token: 'jwt', region: 'fra' });
    const [path, init] = vi.mocked(fetch).mock.calls[0] ?? [];
    expect(path).toBe('/api/token');
    const body = { room_name: 'r', participant_name: 'Ada', participant_identity: 'ada-1' };
    expect(JSON.parse(String(init?.body))).toEqual(body);
    await fetchJoinGrant({ ...wanted, region: 'syd' });
    expect(JSON.parse(String(vi.mocked(fetch).mock.calls[1]?.[1]?.body))).toEqual({ ...body, region: 'syd' });
  });

  it('says whose data it is from, with a link that is one', () => {
    const attribution = { text: 'IP Geolocation by DB-IP', url: 'https://db-ip.com' };
    expect(parseJoinGrant({ ...grant, attribution }).attribution).toEqual(attribution);
    for (const bad of [undefined, 'DB-IP', { text: 'x' }, { text: 'x', url: 'javascript:alert(1)' }]) {
      expect(parseJoinGrant({ ...grant, attribution: bad }).attribution).toBeUndefined();
    }
  });

  it('must hold a URL and a token', () => {
    for (const body of [
      undefined,
      {},
      { server_url: 'ws://x' },
      { participant_token: 't' },
      { ...grant, server_url: 3 },
    ]) {
      expect(() => parseJoinGrant(body)).toThrow(GatewayError);
    }
  });

  it('fails with what the gateway says', async () => {
    answer(404, { error: { code: 'region_not_served', message: 'served: fra, syd' } });
    const error = await fetchJoinGrant(wanted).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ status: 404, code: 'region_not_served', message: 'served: fra, syd' });
    expect(describeJoinError(error).hint).toBe('served: fra, syd');
  });

  it('fails as unreachable without a network', async () => {
    vi.stubGlobal(
      'fetch',
      vi.fn(async () => Promise.reject(new TypeError('failed'))),
    );
    const error = await fetchJoinGrant(wanted).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(UnreachableError);
  });
});

describe('problems', () => {
  it('always say what to do', () => {
    const errors = [401, 403, 404, 429, 500, 503, 400].map(
      (status) => new GatewayError(status, undefined, 'why'),
    );
    for (const error of [...errors, new UnreachableError('x'), new Error('ice failed'), 'text']) {
      const { title, hint } = describeJoinError(error);
      expect(title).not.toBe('');
      expect(hint).not.toBe('');
    }
    expect(describeMediaError(new DOMException('no', 'NotAllowedError')).title).toContain('does not let');
    expect(describeMediaError(new Error('odd')).hint).toContain('odd');
  });
});
