// What the page says in a corner for some seconds, where no node can.
import { app } from "../../scripts/app.js";

/** Say `detail`, a sentence, under `summary`. */
export function warn(summary, detail) {
  app.extensionManager.toast.add({ severity: "warn", summary, detail, life: 10000 });
}
