import { CallScreen } from './CallScreen';
import { Ended } from './Ended';
import { Lobby } from './lobby/Lobby';
import { useCall } from './store';

/** The call from the lobby to its end. */
export default function CallPage() {
  const phase = useCall((state) => state.phase);
  if (phase === 'live') return <CallScreen />;
  if (phase === 'ended') return <Ended />;
  return <Lobby />;
}
