import { beforeEach, describe, expect, it } from 'vitest';
import { MESSAGES_MAX } from './chat';
import { useCall } from './store';

const said = (text: string, own = false) => useCall.getState().addMessage({ from: 'Ada', own, text, at: 1 });
const problem = { title: 'lost', hint: 'rejoin' };

beforeEach(() => useCall.setState(useCall.getInitialState(), true));

describe('the phases of a call', () => {
  it('go from the lobby to its end and back', () => {
    const call = useCall.getState();
    call.startJoining('r');
    expect(useCall.getState()).toMatchObject({ phase: 'joining', room: 'r' });
    call.joined('fra');
    expect(useCall.getState()).toMatchObject({ phase: 'live', region: 'fra' });
    call.ended(problem);
    expect(useCall.getState()).toMatchObject({ phase: 'ended', room: 'r', problem });
    call.backToLobby();
    expect(useCall.getState()).toMatchObject({ phase: 'lobby', room: 'r', problem: undefined });
  });

  it('return to the lobby with the reason when joining fails', () => {
    useCall.getState().startJoining('r');
    useCall.getState().ended(problem);
    expect(useCall.getState()).toMatchObject({ phase: 'lobby', problem });
  });

  it('leave nothing of one call to the next', () => {
    const call = useCall.getState();
    call.startJoining('r');
    call.joined(undefined);
    said('hello');
    call.setReconnecting(true);
    call.setNotice(problem);
    call.ended();
    call.startJoining('other');
    const expected = { messages: [], unread: 0, reconnecting: false, notice: undefined, people: [] };
    expect(useCall.getState()).toMatchObject(expected);
  });
});

describe('chat', () => {
  it("counts what others say while it is closed, not one's own", () => {
    said('one');
    said('mine', true);
    expect(useCall.getState().unread).toBe(1);
    useCall.getState().setChatOpen(true);
    said('two');
    expect(useCall.getState()).toMatchObject({ unread: 0, chatOpen: true });
    useCall.getState().setChatOpen(false);
    said('three');
    expect(useCall.getState().unread).toBe(1);
  });

  it('keeps a bounded number of messages, each with its own id', () => {
    for (let count = 0; count < MESSAGES_MAX + 20; count += 1) said(`message ${count}`);
    const { messages } = useCall.getState();
    expect(messages).toHaveLength(MESSAGES_MAX);
    expect(messages[0]?.text).toBe('message 20');
    expect(new Set(messages.map(({ id }) => id)).size).toBe(MESSAGES_MAX);
  });
});
