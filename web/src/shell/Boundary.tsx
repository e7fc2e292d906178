import { Component, type ReactNode } from 'react';

interface State {
  broken: string | undefined;
}

/** Says that a part of the page has failed, instead of leaving it blank. */
export class Boundary extends Component<{ children: ReactNode }, State> {
  override state: State = { broken: undefined };

  static getDerivedStateFromError(error: unknown): State {
    return { broken: error instanceof Error ? error.message : String(error) };
  }

  override render() {
    if (this.state.broken === undefined) return this.props.children;
    return (
      <main className="flex flex-1 p-4">
        <section
          role="alert"
          className="m-auto w-full max-w-md rounded-2xl border border-line bg-panel p-8 text-center"
        >
          <h1 className="text-2xl font-bold tracking-tight">This page has failed</h1>
          <p className="mt-2 mb-6 text-soft">Reload it to come back to the call. ({this.state.broken})</p>
          <button
            type="button"
            autoFocus
            onClick={() => location.reload()}
            className="button button-primary w-full"
          >
            Reload
          </button>
        </section>
      </main>
    );
  }
}
