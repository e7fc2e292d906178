import tailwindcss from '@tailwindcss/vite';
import react from '@vitejs/plugin-react';
import { loadEnv } from 'vite';
import { defineConfig } from 'vitest/config';

/** Where `npm run dev` finds the gateway of a mesh on this machine. */
const gateway = loadEnv('', '.', 'ANTIPODE_').ANTIPODE_HTTP ?? 'http://127.0.0.1:7800';

export default defineConfig({
  plugins: [react(), tailwindcss()],
  build: {
    target: 'es2022',
    chunkSizeWarningLimit: 1200,
    rollupOptions: { output: { manualChunks: { livekit: ['livekit-client'] } } },
  },
  server: { proxy: { '/api': gateway, '/settings': gateway } },
  test: { environment: 'node', include: ['src/**/*.test.ts'] },
});
