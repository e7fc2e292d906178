import { DisconnectReason } from 'livekit-client';
import { describe, expect, it } from 'vitest';
import { TEXT_MAX, decodeChat, encodeChat } from './chat';
import { callLinkQuery, makeIdentity, parseCallLink } from './deep_link';
import { bestColumns } from './layout';
import { hueOf, initials } from './people';
import { regionLabel } from './region';
import { describeEnding } from './session';

describe('a link to a call', () => {
  it('is read as it is written', () => {
    for (const link of [
      { room: 'weekly sync & more', region: 'fra' },
      { room: 'größe', region: '' },
      { room: '', region: '' },
    ]) {
      expect(parseCallLink(callLinkQuery(link))).toEqual(link);
    }
  });

  it('is tolerant of odd values', () => {
    expect(parseCallLink('?room=%20a%20&region=FRA')).toEqual({ room: 'a', region: 'fra' });
    expect(parseCallLink('?region=<script>')).toEqual({ room: '', region: '' });
    expect(parseCallLink(`?room=${'x'.repeat(500)}`).room).toHaveLength(64);
  });
});

describe('an identity', () => {
  it('is readable and unique', () => {
    expect(makeIdentity('Ada Lovelace')).toMatch(/^ada-lovelace-[0-9a-f]{10}$/);
    expect(makeIdentity('José')).toMatch(/^jose-/);
    expect(makeIdentity('李')).toMatch(/^guest-/);
    expect(makeIdentity('a')).not.toBe(makeIdentity('a'));
  });
});

describe('chat messages', () => {
  it('survive the wire', () => {
    expect(decodeChat(encodeChat('hello, 世界 👋'))).toBe('hello, 世界 👋');
    expect(decodeChat(encodeChat('x'.repeat(TEXT_MAX * 2)))).toHaveLength(TEXT_MAX);
  });

  it('are ignored when they are something else', () => {
    for (const payload of ['', 'plain', '{}', '[]', 'null', '{"text":1}', '{"text":""}']) {
      expect(decodeChat(new TextEncoder().encode(payload))).toBeUndefined();
    }
    expect(decodeChat(new Uint8Array([0xff, 0xfe, 0x00]))).toBeUndefined();
  });
});

describe('the grid', () => {
  it('makes tiles as large as they can be', () => {
    expect(bestColumns(1, 1280, 720)).toBe(1);
    expect(bestColumns(4, 1280, 720)).toBe(2);
    expect(bestColumns(9, 1280, 720)).toBe(3);
    expect(bestColumns(2, 1280, 400)).toBe(2);
    expect(bestColumns(2, 360, 640)).toBe(1);
    expect(bestColumns(6, 360, 640)).toBe(2);
    expect(bestColumns(3, 0, 0)).toBe(1);
  });
});

describe('people', () => {
  it('have initials and a colour of their own', () => {
    expect(initials('Ada Lovelace')).toBe('AL');
    expect(initials('bob')).toBe('B');
    expect(initials('👋 hi')).toBe('👋H');
    expect(initials('')).toBe('?');
    expect(hueOf('ada-1')).toBe(hueOf('ada-1'));
    expect(hueOf('ada-1')).not.toBe(hueOf('bob-2'));
  });
});

describe('words', () => {
  it('tell why a call ended, unless the person left', () => {
    expect(describeEnding(DisconnectReason.CLIENT_INITIATED)).toBeUndefined();
    expect(describeEnding(DisconnectReason.DUPLICATE_IDENTITY)?.title).toContain('somewhere else');
    expect(describeEnding(undefined)?.hint).toContain('rejoin');
  });

  it('name regions by city', () => {
    expect(regionLabel('fra')).toBe('Frankfurt (fra)');
    expect(regionLabel('moon')).toBe('moon');
  });
});
