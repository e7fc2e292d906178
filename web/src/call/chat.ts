/** Topic of the data packets that carry chat. */
export const CHAT_TOPIC = 'chat';
/** Longest text of one message, in UTF-16 units; well under the cap of a data packet. */
export const TEXT_MAX = 2000;
/** Messages kept; the oldest fall out. */
export const MESSAGES_MAX = 500;

/** One message of the chat. */
export interface Message {
  /** Unique within this page. */
  id: number;
  from: string;
  own: boolean;
  text: string;
  /** When it was received or sent here, Unix ms. */
  at: number;
}

/** The payload of a data packet for a text. */
export function encodeChat(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify({ text: text.slice(0, TEXT_MAX) }));
}

/** The text of a data packet, or undefined when it is no chat message. */
export function decodeChat(payload: Uint8Array): string | undefined {
  try {
    const body: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
    if (typeof body !== 'object' || body === null || !('text' in body)) return undefined;
    return typeof body.text === 'string' && body.text !== '' ? body.text.slice(0, TEXT_MAX) : undefined;
  } catch {
    return undefined;
  }
}
