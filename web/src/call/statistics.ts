import type { Track } from 'livekit-client';
import { useEffect, useState } from 'react';

/** What the statistics of a video track say at one moment. */
export interface Sample {
  atMs: number;
  codec: string;
  width: number;
  height: number;
  fps: number;
  bytes: number;
  packets: number;
  lost: number;
}

/** Rates between two samples. */
export interface Figures {
  codec: string;
  size: string;
  fps: number;
  kbps: number;
  /** Of the packets that were to come, in percent. */
  lossPercent: number;
}

/** How often the figures are taken, in ms. */
const INTERVAL_MS = 1000;

type Entry = Record<string, unknown> & { id: string; type: string };

const number = (value: unknown): number => (typeof value === 'number' ? value : 0);

/**
 * Reads the statistics of a sender or receiver (W3C webrtc-stats). A sender's encodings are added up; the largest gives the size.
 * Undefined without any video.
 */
export function readSample(entries: Iterable<Entry>, atMs: number): Sample | undefined {
  const all = [...entries];
  const streams = all.filter(
    ({ type, kind }) => (type === 'inbound-rtp' || type === 'outbound-rtp') && kind === 'video',
  );
  const largest = streams.toSorted((a, b) => number(b.frameWidth) - number(a.frameWidth))[0];
  if (!largest) return undefined;
  const mime = all.find(({ id }) => id === largest.codecId)?.mimeType;
  const reports = all.filter(({ type, kind }) => type === 'remote-inbound-rtp' && kind === 'video');
  const sum = (of: Entry[], field: string) => of.reduce((total, one) => total + number(one[field]), 0);
  return {
    atMs,
    codec: typeof mime === 'string' ? (mime.split('/')[1] ?? '') : '',
    width: number(largest.frameWidth),
    height: number(largest.frameHeight),
    fps: number(largest.framesPerSecond),
    bytes: sum(streams, 'bytesReceived') + sum(streams, 'bytesSent'),
    packets: sum(streams, 'packetsReceived') + sum(streams, 'packetsSent'),
    lost: sum(streams, 'packetsLost') + sum(reports, 'packetsLost'),
  };
}

/** What happened between two samples; undefined until there are two. */
export function figuresBetween(before: Sample | undefined, now: Sample | undefined): Figures | undefined {
  if (!before || !now || now.atMs <= before.atMs) return undefined;
  const grown = (field: 'bytes' | 'packets' | 'lost') => Math.max(0, now[field] - before[field]);
  const expected = grown('packets') + grown('lost');
  return {
    codec: now.codec,
    size: `${now.width}×${now.height}`,
    fps: Math.round(now.fps),
    kbps: Math.round((grown('bytes') * 8) / (now.atMs - before.atMs)),
    lossPercent: expected === 0 ? 0 : (grown('lost') / expected) * 100,
  };
}

/** The figures of a track, once a second. */
export function useFigures(track: Track & { getRTCStatsReport?: () => Promise<RTCStatsReport | undefined> }) {
  const [figures, setFigures] = useState<Figures>();
  useEffect(() => {
    let before: Sample | undefined;
    let shown = true;
    const take = async () => {
      const report = await track.getRTCStatsReport?.().catch(() => undefined);
      const entries: Entry[] = [];
      report?.forEach((entry: Entry) => entries.push(entry));
      const now = readSample(entries, performance.now());
      if (shown) setFigures(figuresBetween(before, now));
      before = now;
    };
    void take();
    const timer = setInterval(() => void take(), INTERVAL_MS);
    return () => {
      shown = false;
      clearInterval(timer);
    };
  }, [track]);
  return figures;
}
