// The dialog that asks for the key.

import { byId, notice } from "./dom.js";

const REFUSED = "The server does not accept this key. Look for typing mistakes and try again.";
// What a header can carry: anything else was copied wrongly.
const POSSIBLE = /^[\x21-\x7e]+$/;

/** Ask until `accepts(key)` is true; `wasRefused` tells that there was a key before, which is wrong now. */
export function askForKey(accepts, wasRefused) {
  const dialog = byId("key-dialog");
  const value = byId("key-value");
  const error = byId("key-error");
  const submit = byId("key-submit");
  notice(error, wasRefused ? REFUSED : "", true);
  value.value = "";
  // Nothing works without the key; browsers that do not know `closedby` close a dialog all the same.
  dialog.onclose = () => dialog.showModal();
  dialog.showModal();
  value.focus();
  return new Promise((resolve) => {
    byId("key-form").onsubmit = async (event) => {
      event.preventDefault();
      const key = value.value.trim();
      submit.disabled = true;
      let problem = REFUSED;
      try {
        if (POSSIBLE.test(key) && (await accepts(key))) problem = null;
      } catch (failure) {
        problem = failure.message;
      }
      submit.disabled = false;
      if (problem) {
        notice(error, problem, true);
        value.select();
        value.focus();
        return;
      }
      dialog.onclose = null;
      dialog.close();
      value.value = "";
      resolve(key);
    };
  });
}
