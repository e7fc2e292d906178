import { describe, expect, it } from 'vitest';
import { figuresBetween, readSample } from './statistics';
import { VIDEO_DEFAULTS, parseVideoSettings } from './video_settings';

describe('video settings', () => {
  it('are read as they are kept', () => {
    const settings = { codec: 'av1', simulcast: false };
    expect(parseVideoSettings(JSON.stringify(settings))).toEqual(settings);
  });

  it('are the defaults for anything odd', () => {
    for (const text of [null, '', '{', 'null', '[]', '{"codec":"toString","simulcast":"yes"}']) {
      expect(parseVideoSettings(text)).toEqual(VIDEO_DEFAULTS);
    }
  });
});

describe('statistics', () => {
  const received = (bytes: number, packets: number, lost: number) => [
    { id: 'c', type: 'codec', mimeType: 'video/VP9' },
    {
      id: 'in',
      type: 'inbound-rtp',
      kind: 'video',
      codecId: 'c',
      frameWidth: 640,
      frameHeight: 360,
      framesPerSecond: 29.6,
      bytesReceived: bytes,
      packetsReceived: packets,
      packetsLost: lost,
    },
  ];

  it('are rates between two samples', () => {
    const before = readSample(received(1000, 10, 0), 1000);
    const now = readSample(received(126_000, 100, 10), 2000);
    expect(figuresBetween(before, now)).toEqual({
      codec: 'VP9',
      size: '640×360',
      fps: 30,
      kbps: 1000,
      lossPercent: 10,
    });
  });

  it('add up what a simulcast sender sends', () => {
    const stream = (id: string, width: number, bytes: number) => ({
      id,
      type: 'outbound-rtp',
      kind: 'video',
      frameWidth: width,
      frameHeight: width / 2,
      bytesSent: bytes,
      packetsSent: 1,
    });
    const sample = readSample([stream('q', 320, 100), stream('f', 1280, 900)], 5);
    expect(sample).toMatchObject({ width: 1280, height: 640, bytes: 1000, packets: 2 });
  });

  it('are nothing without two samples of a video', () => {
    expect(readSample([{ id: 'a', type: 'inbound-rtp', kind: 'audio' }], 1)).toBeUndefined();
    const only = readSample(received(1, 1, 0), 1000);
    expect(figuresBetween(undefined, only)).toBeUndefined();
    expect(figuresBetween(only, only)).toBeUndefined();
    // A receiver that began anew counts from zero.
    expect(figuresBetween(readSample(received(900, 9, 9), 0), only)?.kbps).toBe(0);
  });
});
