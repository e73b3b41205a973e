// Evaluates the ecosystem file given as argument and writes the response to descriptor 0, to which the file itself
// does not write. See evaluate.rs.
const MAX_DEPTH = 64
const MAX_VALUES = 100000
const [node, file, ...commandLine] = process.argv
const { dirname } = require('path')
const { pathToFileURL } = require('url')
const fs = require('fs')
const Module = require('module')
const skipped = []
let values = 0

class EvalError extends Error {}

// node resolves links in `__dirname`. Paths below it get the name that the user typed, so that a link such as `current`
// is followed at each start of the app.
const typedDir = dirname(file)
const realDir = fs.realpathSync(typedDir)
const typed = text => (realDir !== typedDir && (text + '/').startsWith(realDir + '/') ? typedDir + text.slice(realDir.length) : text)

function respond(response) {
  const bytes = Buffer.from(JSON.stringify(response) + '\n')
  for (let written = 0; written < bytes.length; ) written += fs.writeSync(0, bytes, written)
  process.exit(0)
}

const quoted = text => JSON.stringify(Buffer.from(text).toString())

// The JSON of a value; undefined for a skipped value. JSON.stringify drops functions silently, and its errors have no
// path.
function json(value, path, ancestors) {
  if (++values > MAX_VALUES) throw new EvalError('too many values')
  if (value === null) return 'null'
  if (typeof value === 'string') return quoted(typed(value))
  if (typeof value === 'number' || typeof value === 'bigint') return /^-?\d/.test(String(value)) ? String(value) : quoted(String(value))
  if (typeof value === 'boolean') return String(value)
  if (typeof value === 'undefined') return undefined
  if (typeof value !== 'object') return void skipped.push({ path, reason: `a ${typeof value} is not a valid value, ignored` })
  if (typeof value.toJSON === 'function') return json(value.toJSON(), path, ancestors)
  if (ancestors.includes(value)) throw new EvalError(`${path || 'the exported value'} contains itself`)
  if (ancestors.length >= MAX_DEPTH) throw new EvalError('nesting too deep')
  const inner = [...ancestors, value]
  if (Array.isArray(value)) {
    return '[' + Array.from(value, (item, index) => json(item, `${path}[${index}]`, inner) || 'null').join(',') + ']'
  }
  const pairs = []
  for (const key of Object.keys(value)) {
    const text = json(value[key], path ? `${path}.${key}` : key, inner)
    if (text !== undefined) pairs.push(`${quoted(key)}:${text}`)
  }
  return '{' + pairs.join(',') + '}'
}

const hasApps = value =>
  value !== null && typeof value === 'object' && (Array.isArray(value) || 'apps' in value || 'pm2' in value || 'script' in value)

// The exported value: module.exports, a default export, or a default export compiled to CommonJS.
function exported(module) {
  let value = module
  for (let depth = 0; depth < 3; depth++) {
    const inner = value === null || value === undefined ? undefined : value.default
    if (inner === undefined || (hasApps(value) && !hasApps(inner))) break
    value = inner
  }
  return value
}

function failure(error) {
  if (error instanceof EvalError) return { failure: { message: error.message } }
  const stack = String((error && error.stack) || '')
  const name = file.slice(file.lastIndexOf('/')).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const position = new RegExp(`${name}:(\\d+)(?::(\\d+))?`).exec(stack)
  const message = String((error && error.message) || error)
  const kind = error instanceof Error ? `${error.name}: ` : 'uncaught exception: '
  return { failure: { message: kind + message, line: position && Number(position[1]), column: position && Number(position[2] || 1) } }
}

// Without `import`, which treats the file as an ES module where package.json says so.
function loadAsCommonJs() {
  const module = new Module(file)
  module.filename = file
  module.paths = Module._nodeModulePaths(dirname(file))
  module._compile(fs.readFileSync(file, 'utf8'), file)
  return module.exports
}

async function load() {
  await null // `node -e` restores some of its globals after its script
  // In an ES module they must be missing, or `module.exports` would be lost in silence.
  for (const name of ['module', 'exports', 'require', '__filename', '__dirname']) delete globalThis[name]
  try {
    return await import(pathToFileURL(file).href)
  } catch (error) {
    const isCommonJs = error instanceof ReferenceError && /^(module|exports|require|__dirname|__filename) is not defined/.test(error.message)
    if (!isCommonJs || !file.endsWith('.js')) throw error
    try {
      return loadAsCommonJs()
    } catch (other) {
      throw other instanceof SyntaxError ? error : other // the first one names the cause, and .cjs
    }
  }
}

// As in PM2: the command line of the command that reads the file.
process.argv = commandLine.length ? [node, ...commandLine] : [node, file]
// rsm kills this process earlier, unless rsm itself was killed.
setTimeout(() => process.exit(1), 10000).unref()
process.on('uncaughtException', error => respond(failure(error)))
load()
  .then(async module => {
    const value = await exported(module)
    if (typeof value === 'function') throw new EvalError('exports a function instead of an object')
    const text = json(value, '', [])
    respond({ value: { json: text === undefined ? 'null' : text, skipped } })
  })
  .catch(error => respond(failure(error)))
