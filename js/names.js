// Names of files may say when and from what a file was made: %date:yyyy-MM-dd% and %Node.widget%, as in the nodes of
// ComfyUI that save. It fills these in only for nodes of its own.
import { app } from "../../scripts/app.js";

/** Fill in the name that is sent; the workflow keeps it as it was written. */
export function fillNames(node) {
  const prefix = node.widgets?.find(({ name }) => name === "filename_prefix");
  const fill = window.comfyAPI?.utils?.applyTextReplacements;
  if (prefix && fill) prefix.serializeValue = () => fill(app.rootGraph ?? app.graph, prefix.value);
}
