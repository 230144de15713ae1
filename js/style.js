// Rules for our own elements. They hold for nothing else on the page: each begins with a class of ours, or asks for one.
export function addStyle(rules) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}
