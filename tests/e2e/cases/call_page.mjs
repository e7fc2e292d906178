import { join } from 'node:path';
import { check, until } from '../lib/check.mjs';

const PHONE = { width: 360, height: 740 };

/** Fills in the lobby and joins; the room comes from the link. */
async function enter(page, name) {
  await page.getByLabel('Your name').fill(name);
  await page.getByRole('button', { name: 'Join the call' }).click();
  await page.getByRole('toolbar', { name: 'Call controls' }).waitFor({ timeout: 15_000 });
}

/** The tile of a person whose name starts so. */
const tile = (page, name, state = '') => page.getByRole('listitem', { name: new RegExp(`^${name}.*${state}`) });

/** Waits until a person's picture plays. */
async function seesPicture(page, name) {
  const video = tile(page, name).locator('video');
  await video.waitFor({ timeout: 15_000 });
  await until(
    `the picture of ${name} plays`,
    () => video.evaluate((element) => element.videoWidth > 0 && element.currentTime > 0.5),
    { timeoutMs: 15_000 },
  );
}

/** Nothing may stick out of the page sideways. */
async function checkWidth(page, what) {
  const [wide, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check(wide <= shown, `${what} is ${wide} pixels wide on a screen of ${shown}`);
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

// The call page itself: two people on different continents, one at a desk and one with a phone.
export default {
  order: 14,
  async run(t) {
    const path = `/?room=${t.room}`;
    const ada = await t.visit(`${path}&region=fra`);
    check((await ada.getByText('This binary was built without').count()) === 0, 'the call page was not built: npm ci && npm run build in web/');
    const errors = [];
    const bob = await t.visit(`${path}&region=syd`, PHONE);
    for (const page of [ada, bob]) {
      page.on('pageerror', (error) => errors.push(error.message));
      page.on('console', (message) => /Content Security|Refused/.test(message.text()) && errors.push(message.text()));
    }
    await checkWidth(bob, 'the lobby');
    await enter(ada, 'Ada');
    await enter(bob, 'Bob');
    await Promise.all([seesPicture(ada, 'Bob'), seesPicture(bob, 'Ada')]);
    await tile(ada, 'Bob', 'speaking').waitFor({ timeout: 15_000 });
    await checkWidth(bob, 'the call');

    await bob.keyboard.press('m');
    await tile(ada, 'Bob', 'muted').waitFor();
    await bob.keyboard.press('m');
    await bob.getByRole('button', { name: 'Turn camera off' }).click();
    await tile(ada, 'Bob').locator('video').waitFor({ state: 'detached' });
    await bob.getByRole('button', { name: 'Turn camera on' }).click();
    await seesPicture(ada, 'Bob');
    await chat(ada, bob);
    await ada.screenshot({ path: join(t.environment.logs, 'call-desk.png') });
    await bob.screenshot({ path: join(t.environment.logs, 'call-phone.png') });

    await bob.getByRole('button', { name: 'Leave the call' }).click();
    await bob.getByRole('heading', { name: 'You left the call' }).waitFor();
    await tile(ada, 'Bob').waitFor({ state: 'detached' });
    check(errors.length === 0, errors.join('; '));
    return { pages: 2 };
  },
};
