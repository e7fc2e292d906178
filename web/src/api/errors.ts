/** Something that went wrong, as a person is told it: what happened, and what to do about it. */
export interface Problem {
  title: string;
  hint: string;
}

/** An answer of the gateway that is not a success. `code` is the gateway's own name for the error, if it gave one. */
export class GatewayError extends Error {
  override readonly name = 'GatewayError';

  constructor(
    readonly status: number,
    readonly code: string | undefined,
    message: string,
  ) {
    super(message);
  }
}

/** The gateway could not be reached at all. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
}

const MEDIA_PROBLEMS: Record<string, Problem> = {
  NotAllowedError: {
    title: 'The browser does not let this page use your camera or microphone',
    hint: 'Allow both in the address bar (the icon left of the address), then try again. You can also join without them.',
  },
  NotFoundError: {
    title: 'No camera or microphone was found',
    hint: 'Plug one in and try again, or join without it: you will still see and hear the others.',
  },
  NotReadableError: {
    title: 'The camera or microphone is in use elsewhere',
    hint: 'Close the other application or tab that uses it, or pick another device.',
  },
  OverconstrainedError: {
    title: 'This device cannot do what was asked of it',
    hint: 'Pick another camera or microphone.',
  },
};

/** Says what happened when getting a camera, microphone or screen failed. */
export function describeMediaError(error: unknown): Problem {
  const name = error instanceof Error || error instanceof DOMException ? error.name : '';
  return (
    MEDIA_PROBLEMS[name] ?? {
      title: 'The camera or microphone could not be started',
      hint: `Try another device. ${error instanceof Error ? error.message : ''}`.trim(),
    }
  );
}

/** Says what happened when joining a call failed. */
export function describeJoinError(error: unknown): Problem {
  if (error instanceof UnreachableError) {
    return { title: 'The mesh cannot be reached', hint: 'Check your network connection, then try again.' };
  }
  if (error instanceof GatewayError) {
    if (error.status === 401 || error.status === 403) {
      return {
        title: 'You are not allowed to join this room',
        hint: 'This mesh hands out tokens only to its own application. Open the call from there.',
      };
    }
    if (error.status === 404) return { title: 'That region is not served', hint: error.message };
    if (error.status === 429) {
      return { title: 'Too many attempts', hint: 'Wait a few seconds, then try again.' };
    }
    if (error.status >= 500) {
      return {
        title: 'No edge is ready to take the call',
        hint: 'They may be starting: try again in a moment, or pick another region.',
      };
    }
    return { title: 'The gateway refused', hint: error.message };
  }
  const reason = error instanceof Error ? error.message : String(error);
  return {
    title: 'The call could not be connected',
    hint: `The edge was found, but no media connection came about (${reason}). Try another region; a firewall may block UDP.`,
  };
}
