import { VIDEO_CODECS, type VideoCodecChoice, type VideoSettings } from '../video_settings';

interface Props {
  settings: VideoSettings;
  onPick: (settings: VideoSettings) => void;
}

/** How one's own video is sent; closed, as few need it. */
export function VideoPicker({ settings, onPick }: Props) {
  return (
    <details className="rounded-xl border border-line px-3.5 py-2.5">
      <summary className="cursor-pointer text-sm text-soft">Video settings</summary>
      <label className="mt-3 block">
        <span className="field-label">Codec</span>
        <select
          className="field"
          value={settings.codec}
          onChange={(event) => onPick({ ...settings, codec: event.target.value as VideoCodecChoice })}
        >
          {Object.entries(VIDEO_CODECS).map(([codec, label]) => (
            <option key={codec} value={codec}>
              {label}
            </option>
          ))}
        </select>
      </label>
      <label className="mt-3 flex items-center gap-2 text-sm">
        <input
          type="checkbox"
          checked={settings.simulcast}
          onChange={(event) => onPick({ ...settings, simulcast: event.target.checked })}
        />
        Send several sizes, so that each person gets the one that fits
      </label>
    </details>
  );
}
