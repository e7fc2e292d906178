import { useEffect, useRef, useState, type FormEvent } from 'react';
import { CloseIcon, SendIcon } from '../shell/icons';
import { TEXT_MAX, type Message } from './chat';
import { sendChat } from './session';
import { useCall } from './store';

const TIME = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

function Bubble({ message }: { message: Message }) {
  const own = message.own ? 'self-end bg-accent text-accent-ink' : 'self-start bg-raised';
  return (
    <li className={`max-w-[85%] rounded-2xl px-3.5 py-2 ${own}`}>
      <p className="flex items-baseline gap-2 text-xs opacity-75">
        <span className="font-semibold">{message.own ? 'You' : message.from}</span>
        <time dateTime={new Date(message.at).toISOString()}>{TIME.format(message.at)}</time>
      </p>
      <p className="break-words whitespace-pre-wrap">{message.text}</p>
    </li>
  );
}

/** The list of messages, which stays at the newest. */
function Messages() {
  const messages = useCall((state) => state.messages);
  const end = useRef<HTMLLIElement>(null);
  useEffect(() => {
    // Newer browsers return a promise here, which is no clean-up function.
    void end.current?.scrollIntoView({ block: 'end' });
  }, [messages]);
  return (
    <ol aria-live="polite" className="flex min-h-0 flex-1 flex-col gap-2 overflow-y-auto p-3">
      {messages.length === 0 && <li className="m-auto text-sm text-soft">No messages yet</li>}
      {messages.map((message) => (
        <Bubble key={message.id} message={message} />
      ))}
      <li ref={end} aria-hidden="true" />
    </ol>
  );
}

/** Text among the people in the call. It is not kept: who joins later does not see it. */
export function Chat() {
  const setChatOpen = useCall((state) => state.setChatOpen);
  const [text, setText] = useState('');
  const send = (event: FormEvent) => {
    event.preventDefault();
    const said = text;
    setText('');
    void sendChat(said).then((sent) => {
      if (!sent) setText((typed) => typed || said);
    });
  };
  return (
    <aside
      aria-label="Chat"
      onKeyDown={(event) => event.key === 'Escape' && setChatOpen(false)}
      className="fixed inset-x-0 top-0 bottom-0 z-20 flex flex-col border-line bg-panel md:static md:w-80 md:rounded-2xl md:border"
    >
      <header className="flex items-center justify-between border-b border-line px-4 py-2.5">
        <h2 className="font-semibold">Chat</h2>
        <button
          type="button"
          aria-label="Close chat"
          onClick={() => setChatOpen(false)}
          className="rounded-lg p-1.5 text-soft hover:bg-raised hover:text-ink"
        >
          <CloseIcon />
        </button>
      </header>
      <Messages />
      <form onSubmit={send} className="flex gap-2 border-t border-line p-3">
        <input
          className="field min-w-0"
          value={text}
          onChange={(event) => setText(event.target.value)}
          maxLength={TEXT_MAX}
          aria-label="Message to everyone"
          placeholder="Message to everyone"
          autoFocus
        />
        <button
          type="submit"
          aria-label="Send"
          disabled={text.trim() === ''}
          className="button button-primary px-3"
        >
          <SendIcon />
        </button>
      </form>
    </aside>
  );
}
