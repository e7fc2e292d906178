import { join } from 'node:path';
import { CheckFailed, check, until } from '../lib/check.mjs';

const PHONE = { width: 360, height: 740 };
/** As many new frames tell that a picture plays. */
const FRAMES_MIN = 10;

/** Fills in the lobby and joins; the room comes from the link. */
async function enter(page, name) {
  await page.getByLabel('Your name').fill(name);
  await page.getByRole('button', { name: 'Join the call' }).click();
  await page.getByRole('toolbar', { name: 'Call controls' }).waitFor({ timeout: 15_000 });
}

/** The tile of a person whose name starts so. */
const tile = (page, name, state = '') => page.getByRole('listitem', { name: new RegExp(`^${name}.*${state}`) });

/** Waits until a person's picture plays: new frames come, and they are no longer the first ones. */
async function seesPicture(page, name) {
  const video = tile(page, name).locator('video');
  await video.waitFor({ timeout: 15_000 });
  const shown = () => video.evaluate((element) => [element.videoWidth, element.getVideoPlaybackQuality().totalVideoFrames]);
  const [, before] = await shown();
  await until(
    `the picture of ${name} plays`,
    async () => {
      const [width, frames] = await shown();
      return width > 0 && frames >= before + FRAMES_MIN;
    },
    { timeoutMs: 15_000 },
  );
}

/** Nothing may stick out of the page sideways. */
async function checkWidth(page, what) {
  const [wide, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check(wide <= shown, `${what} is ${wide} pixels wide on a screen of ${shown}`);
}

/** Collects what the page itself gets wrong. */
function watchErrors(page, errors) {
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => /Content Security|Refused/.test(message.text()) && errors.push(message.text()));
}

async function chat(from, to) {
  await from.keyboard.press('c');
  await from.getByLabel('Message to everyone').fill('hello over there');
  await from.keyboard.press('Enter');
  await to.getByRole('button', { name: 'Open chat, 1 unread' }).click();
  await to.getByText('hello over there').waitFor();
  await to.getByRole('button', { name: 'Close chat' }).first().click();
  await from.getByRole('button', { name: 'Close chat' }).first().click();
}

/** Everything a call is made of, from the lobby to its end. */
async function holdCall(t, ada, bob) {
  await checkWidth(bob, 'the lobby');
  await enter(ada, 'Ada');
  await enter(bob, 'Bob');
  await Promise.all([seesPicture(ada, 'Bob'), seesPicture(bob, 'Ada')]);
  // Chromium's fake microphone only beeps; a steady tone counts as speech.
  const cleo = await t.native('Cleo', 'iad');
  await cleo.publish({ video: null });
  await Promise.all([ada, bob].map((page) => tile(page, 'Cleo', 'speaking').waitFor({ timeout: 15_000 })));
  await checkWidth(bob, 'the call');

  await bob.keyboard.press('m');
  await tile(ada, 'Bob', 'muted').waitFor();
  await bob.keyboard.press('m');
  await bob.getByRole('button', { name: 'Turn camera off' }).click();
  await tile(ada, 'Bob').locator('video').waitFor({ state: 'detached' });
  await bob.getByRole('button', { name: 'Turn camera on' }).click();
  await seesPicture(ada, 'Bob');
  await ada.screenshot({ path: join(t.environment.logs, 'call-desk.png') });
  await bob.screenshot({ path: join(t.environment.logs, 'call-phone.png') });
  await chat(ada, bob);

  await bob.getByRole('button', { name: 'Leave the call' }).click();
  await bob.getByRole('heading', { name: 'You left the call' }).waitFor();
  await tile(ada, 'Bob').waitFor({ state: 'detached' });
}

// The call page itself: people on different continents, one at a desk and one with a phone.
export default {
  order: 14,
  async run(t) {
    const path = `/?room=${t.room}`;
    const ada = await t.visit(`${path}&region=fra`);
    const missing = await ada.getByText('This binary was built without').count();
    check(missing === 0, 'the call page was not built: npm ci && npm run build in web/');
    const bob = await t.visit(`${path}&region=syd`, PHONE);
    const errors = [];
    for (const page of [ada, bob]) {
      page.setDefaultTimeout(15_000);
      watchErrors(page, errors);
    }
    try {
      await holdCall(t, ada, bob);
    } catch (error) {
      throw new CheckFailed(`${error.message}; errors of the page: ${errors.join('; ') || 'none'}`);
    }
    check(errors.length === 0, errors.join('; '));
    return { pages: 2 };
  },
};
