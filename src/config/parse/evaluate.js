// Evaluates the ecosystem file given as argument and writes the response to descriptor 0, to which the file itself
// does not write. See evaluate.rs.
const MAX_DEPTH = 64
const MAX_VALUES = 100000
const file = process.argv[1]
const skipped = []
let values = 0

class EvalError extends Error {}

function respond(response) {
  const bytes = Buffer.from(JSON.stringify(response) + '\n')
  for (let written = 0; written < bytes.length; ) written += require('fs').writeSync(0, bytes, written)
  process.exit(0)
}

const quoted = text => JSON.stringify(Buffer.from(text).toString())

// The JSON of a value; undefined for a skipped value. JSON.stringify drops functions silently, and its errors have no
// path.
function json(value, path, ancestors) {
  if (++values > MAX_VALUES) throw new EvalError('too many values')
  if (value === null) return 'null'
  if (typeof value === 'string') return quoted(value)
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

process.argv = [process.argv[0], file]
// rsm kills this process earlier, unless rsm itself was killed.
setTimeout(() => process.exit(1), 10000).unref()
process.on('uncaughtException', error => respond(failure(error)))
import(require('url').pathToFileURL(file).href)
  .then(async module => {
    const value = await exported(module)
    if (typeof value === 'function') throw new EvalError('exports a function instead of an object')
    const text = json(value, '', [])
    respond({ value: { json: text === undefined ? 'null' : text, skipped } })
  })
  .catch(error => respond(failure(error)))
