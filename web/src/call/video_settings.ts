/** How one's own camera and screen are sent. */
export interface VideoSettings {
  codec: VideoCodecChoice;
  /** Several sizes at once (VP8, H.264), so that each person gets the one that fits. */
  simulcast: boolean;
}

export type VideoCodecChoice = 'vp8' | 'h264' | 'vp9' | 'av1';

export const VIDEO_CODECS: Record<VideoCodecChoice, string> = {
  vp8: 'VP8: every browser, light on the processor',
  h264: 'H.264: often encoded by the graphics chip',
  vp9: 'VP9: sharper at the same rate',
  av1: 'AV1: sharpest, and the most work',
};

export const VIDEO_DEFAULTS: VideoSettings = { codec: 'vp8', simulcast: true };
const KEY = 'antipode.video';

/** Settings from text that may be anything; what is missing or unknown is the default. */
export function parseVideoSettings(text: string | null): VideoSettings {
  try {
    const { codec, simulcast } = JSON.parse(text ?? '') as Partial<Record<keyof VideoSettings, unknown>>;
    const known = typeof codec === 'string' && Object.hasOwn(VIDEO_CODECS, codec);
    return {
      codec: known ? (codec as VideoCodecChoice) : VIDEO_DEFAULTS.codec,
      simulcast: typeof simulcast === 'boolean' ? simulcast : VIDEO_DEFAULTS.simulcast,
    };
  } catch {
    return VIDEO_DEFAULTS;
  }
}

/** What this browser was told last. */
export function storedVideoSettings(): VideoSettings {
  try {
    return parseVideoSettings(localStorage.getItem(KEY));
  } catch {
    return VIDEO_DEFAULTS;
  }
}

export function keepVideoSettings(settings: VideoSettings): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // They are chosen again next time.
  }
}
