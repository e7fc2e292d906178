import { useRef } from 'react';
import { useColumns } from './layout';
import type { Person } from './people';
import { useCall } from './store';
import { Tile } from './Tile';

function Grid({ people }: { people: Person[] }) {
  const ref = useRef<HTMLUListElement>(null);
  const columns = useColumns(people.length, ref);
  return (
    <ul
      ref={ref}
      aria-label="People in the call"
      className="grid min-h-0 flex-1 auto-rows-fr gap-2"
      style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))` }}
    >
      {people.map((person) => (
        <Tile key={person.identity} person={person} />
      ))}
    </ul>
  );
}

/** A shared screen, large, and everyone in a strip below it. */
function Presentation({ presenter, people }: { presenter: Person; people: Person[] }) {
  return (
    <div className="flex min-h-0 flex-1 flex-col gap-2">
      <ul aria-label="Shared screen" className="min-h-0 flex-1">
        <Tile person={presenter} showScreen />
      </ul>
      <ul aria-label="People in the call" className="flex h-24 shrink-0 gap-2 overflow-x-auto p-0.5 sm:h-32">
        {people.map((person) => (
          <div key={person.identity} className="aspect-video h-full shrink-0">
            <Tile person={person} />
          </div>
        ))}
      </ul>
    </div>
  );
}

/** Everyone in the call; the newest screen that somebody else shares comes first. */
export function Stage() {
  const people = useCall((state) => state.people);
  const sharing = people.filter((person) => person.screen);
  const presenter = sharing.findLast((person) => !person.isLocal) ?? sharing[0];
  return presenter ? <Presentation presenter={presenter} people={people} /> : <Grid people={people} />;
}
